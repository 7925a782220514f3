"""Test the benchmark of choosing among many images, on a small pool."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from scripts.research.bench_choice import Numbers, Plan, choose, make_embeddings, measure, read_rate


def test_a_choice_is_measured_on_embeddings_that_are_made_once(tmp_path: Path) -> None:
    plan = Plan(tmp_path, 300)
    make_embeddings(plan)
    assert plan.embeddings().shape == (1300, 512)
    made = sorted(plan.files.iterdir())
    make_embeddings(plan)
    assert sorted(plan.files.iterdir()) == made
    figure = measure("auto", partial(choose, "uncertain_clusters"), plan, "60 s")
    assert re.fullmatch(r"cold \S+ s, warm \S+ s \(\S+ s of CPU\), [\d,]+ MB", figure.value)
    assert read_rate(plan.files) > 0


def test_numbers_are_ids_made_when_they_are_used() -> None:
    assert Numbers(5_000_000)[4_999_999] == "4999999"
    assert Numbers(5)[3:] == ["3", "4"]
    assert len(Numbers(5)) == 5
