"""Report the results of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.research.chaos.audit import Finding
from scripts.research.chaos.outcome import Outcome
from scripts.research.chaos.report import Report


def outcome(name: str, caught_up_s: float | None) -> Outcome:
    return Outcome(name, 0.0, 45.0, 0.0, caught_up_s, "")


CLEAN = Report(
    n_faults=3,
    outcomes=[outcome("kill", 1.0), outcome("freeze", 2.0), outcome("kill", 4.0)],
    findings=[Finding("tasks", "20, 0 images with more than one", ())],
    seconds=120.0,
    learned_s=14.0,
)


def test_a_report_has_the_median_and_the_worst_time_of_each_kind() -> None:
    lines = CLEAN.lines()
    assert lines[1].split() == ["freeze", "1", "2.0", "s", "2.0", "s", "45", "s"]
    assert lines[2].split() == ["kill", "2", "2.5", "s", "4.0", "s", "45", "s"]
    assert lines[-1] == "3 of 3 faults in 2 minutes, 0 left out, 0 not caught up in time: clean"
    assert CLEAN.is_clean


@pytest.mark.parametrize(
    "broken",
    [
        replace(CLEAN, outcomes=[outcome("kill", 46.0)], n_faults=1),
        replace(CLEAN, outcomes=[outcome("kill", None)], n_faults=1),
        replace(CLEAN, n_faults=4),
        replace(CLEAN, learned_s=None),
        replace(CLEAN, findings=[Finding("tasks", "", ("2 tasks for image i7",))]),
    ],
    ids=["too late", "never caught up", "faults left", "not learned", "duplicate"],
)
def test_a_missed_target_makes_the_report_unclean(broken: Report) -> None:
    assert not broken.is_clean
    assert broken.lines()[-1].endswith("NOT CLEAN")


def test_a_page_shows_its_first_problems_and_counts_the_others() -> None:
    finding = Finding("logs", "7 tracebacks", tuple("abcdefg"))
    assert finding.lines()[1] == "    PROBLEM  a"
    assert finding.lines()[-1] == "    and 2 more"
    assert len(finding.lines()) == 7
