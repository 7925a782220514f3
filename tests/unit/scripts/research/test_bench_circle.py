"""Read from the ranker's log how long a head's order took."""

from __future__ import annotations

from datetime import datetime

import pytest

from scripts.research.bench_circle import find_order

ANNOTATED_AT = datetime(2026, 1, 2, 12, 0, 0).timestamp()  # the log uses local time
LOG = """\
2026-01-02 12:00:00,100 INFO Worker 1a: rank: backend.workers.jobs.rank(1) (rank-p1)
2026-01-02 12:00:00,700 INFO r0001h03: 1,983 labels, 64.0 %
2026-01-02 12:00:01,100 INFO 40 open tasks have predictions of r0001h03
"""


def test_the_parts_of_a_heads_order_add_up_to_the_whole() -> None:
    found = find_order(LOG, ANNOTATED_AT)
    assert found is not None
    assert (found.version, found.n_open) == ("r0001h03", 40)
    assert found.begin_s == pytest.approx(0.1)
    assert found.head_s == pytest.approx(0.6)
    assert found.order_s == pytest.approx(0.4)
    assert found.total_s == pytest.approx(1.1)


def test_the_order_of_new_tasks_by_an_earlier_head_does_not_count() -> None:
    earlier = "2026-01-02 12:00:00,050 INFO 41 open tasks have predictions of r0001h02\n"
    found = find_order(earlier + LOG, ANNOTATED_AT)
    assert found is not None
    assert (found.version, found.n_open) == ("r0001h03", 40)


def test_no_order_is_found_before_the_open_tasks_have_it() -> None:
    assert find_order(LOG[: LOG.index("40 open")], ANNOTATED_AT) is None
    refused = LOG.replace("predictions of r0001h03", "predictions of r0001h02")
    assert find_order(refused, ANNOTATED_AT) is None  # by the head before it
