"""Adapt the body for half an hour or 100 passes, and estimate how long that takes."""

from __future__ import annotations

import pytest

from backend.base.settings import AdaptSetting
from backend.rounds.adapting_rule import expected_seconds, max_seconds, share_done


@pytest.mark.parametrize(
    ("setting", "spent_s", "passes", "done", "expected_s"),
    [
        ("auto", 0, 0, 0, 1800),  # the pace is unknown
        ("auto", 900, 2, 0.5, 1800),  # on a CPU, the half hour ends first
        ("auto", 1800, 4, 1, 1800),
        ("auto", 60, 25, 0.25, 240),  # on a GPU, the 100 passes end first
        ("auto", 240, 100, 1, 240),
        (10.0, 300, 100, 0.5, 600),  # minutes that a person set do not end earlier
        (10.0, 660, 7, 1, 600),
        ("off", 60, 1, 1, 0),
    ],
)
def test_an_adaptation_ends_after_half_an_hour_or_100_passes_unless_its_minutes_are_set(
    setting: AdaptSetting, spent_s: float, passes: float, done: float, expected_s: float
) -> None:
    assert share_done(setting, spent_s, passes) == done
    assert expected_seconds(setting, spent_s, passes) == expected_s


def test_minutes_count_as_seconds() -> None:
    assert (max_seconds("auto"), max_seconds(0.5), max_seconds("off")) == (1800, 30, 0)
