"""Describe the outcome of a fault."""

from __future__ import annotations

from scripts.research.chaos.outcome import Outcome


def outcome(
    *, back_s: float | None = 1.0, caught_up_s: float | None = 44.0, last_lag: str = "3 new"
) -> Outcome:
    return Outcome("freeze redis", 6.0, 45.0, back_s, caught_up_s, last_lag)


def test_an_outcome_says_how_long_the_fault_lasted_and_when_all_was_done() -> None:
    assert outcome().line() == "freeze redis, 6 s: back after 1.0 s, caught up 44.0 s later"
    assert outcome().is_in_time


def test_an_outcome_says_what_was_left_to_do_when_it_was_too_late() -> None:
    late = outcome(caught_up_s=46.0)
    assert not late.is_in_time
    assert late.line().endswith("TOO LATE, limit 45 s (3 new)")
    never = outcome(caught_up_s=None)
    assert not never.is_in_time
    assert never.line().endswith("NOT CAUGHT UP (3 new)")


def test_a_fault_that_cannot_happen_here_is_left_out_and_not_late() -> None:
    left_out = Outcome("full disk", 0.0, 0.0, None, None, "", left_out="mounting is refused")
    assert left_out.is_in_time
    assert left_out.has_recovered
    assert left_out.line() == "full disk: left out, because mounting is refused"


def test_an_outcome_names_the_service_that_is_missing() -> None:
    gone = outcome(back_s=None, caught_up_s=None, last_lag="redis is not running")
    assert gone.line() == "freeze redis, 6 s: NOT BACK (redis is not running)"
