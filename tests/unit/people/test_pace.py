"""Measure how fast people label, on times that can be checked by hand."""

from __future__ import annotations

from backend.people.pace import BREAK_S, MIN_ANNOTATIONS, annotations_per_hour

EVERY_6_S = [6.0 * n for n in range(21)]


def test_an_annotation_every_six_seconds_makes_600_an_hour() -> None:
    assert annotations_per_hour(EVERY_6_S) == 600


def test_breaks_do_not_count() -> None:
    after_lunch = [at + 3600 for at in EVERY_6_S]
    assert annotations_per_hour([*EVERY_6_S, *after_lunch]) == 600
    assert BREAK_S < 3600


def test_only_the_last_day_counts() -> None:
    slow_week = [100.0 * n for n in range(100)]
    today = [at + 10 * 86_400 for at in EVERY_6_S]
    assert annotations_per_hour([*slow_week, *today]) == 600


def test_the_pace_is_unknown_with_too_few_annotations() -> None:
    assert annotations_per_hour([]) is None
    assert annotations_per_hour(EVERY_6_S[:MIN_ANNOTATIONS]) is None
    assert annotations_per_hour(EVERY_6_S[: MIN_ANNOTATIONS + 1]) == 600
    assert annotations_per_hour([7.0] * 50) is None  # imported in one moment
