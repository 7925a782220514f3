"""Show learning curves of a simulation as figures, a table and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.research.learning_curves import (
    Row,
    curves,
    interval,
    labels_needed,
    read_rows,
    summarize,
    write_rows,
)


def rows(strategy: str, *runs: tuple[float, ...]) -> list[Row]:
    return [
        Row(strategy, repeat, number + 1, (number + 1) * 100, accuracy, accuracy, 2000, 0.02, "r1")
        for repeat, run in enumerate(runs)
        for number, accuracy in enumerate(run)
    ]


RANDOM = rows("random", (0.40, 0.50, 0.60), (0.42, 0.52, 0.61))


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", RANDOM)
    assert read_rows(tmp_path / "a.csv", Row) == RANDOM


def test_a_curve_has_a_row_per_seed_and_a_column_per_budget() -> None:
    found = curves(RANDOM, "random")
    assert list(found.columns) == [100, 200, 300]
    assert found.to_numpy().tolist() == [[0.40, 0.50, 0.60], [0.42, 0.52, 0.61]]


def test_an_interval_is_students_over_seeds() -> None:
    mean, half = interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2.0
    assert half == pytest.approx(4.303 / 3**0.5, abs=1e-3)  # t of two degrees of freedom


def test_labels_needed_are_read_off_between_two_points() -> None:
    curve = np.array([0.4, 0.5, 0.6])
    assert labels_needed([100, 200, 300], curve, 0.55) == pytest.approx(250)
    assert labels_needed([100, 200, 300], curve, 0.40) == 100
    assert labels_needed([100, 200, 300], curve, 0.70) == float("inf")


BETTER = rows("auto", (0.50, 0.60, 0.70), (0.52, 0.62, 0.71))
WORSE = rows("margin", (0.30, 0.40, 0.50), (0.32, 0.42, 0.51))


def test_the_summary_says_how_many_labels_each_strategy_saves() -> None:
    text = summarize([*BETTER, *WORSE, *RANDOM], ["auto", "margin", "random"])
    assert "| 100 | 51.0 ± 12.7 (+10.0) | 31.0 ± 12.7 (-10.0) | 41.0 ± 12.7 |" in text
    # Random ends at 60.5 %; auto has 61 % at 200 labels and 51 % at 100: 195 of 300.
    assert "auto needs 65% (" in text
    assert "auto is never significantly worse" in text
    assert "margin does not reach random's final accuracy with 300 labels" in text
    assert "margin is significantly worse than random at 100, 200, 300 labels" in text
    assert "calibration error on the test split: 0.020 at most at any budget, 0.020 in any" in text


def test_a_strategy_like_random_saves_nothing_even_if_the_curve_is_flat() -> None:
    flat = (0.5, 0.6, 0.7, 0.7, 0.7)
    text = summarize(
        [*rows("margin", flat, flat), *rows("random", flat, flat)], ["margin", "random"]
    )
    assert "margin needs 100% (100% to 100%)" in text


def test_one_seed_alone_has_no_interval_and_no_claim() -> None:
    text = summarize([*BETTER[:3], *RANDOM[:3]], ["auto", "random"])
    assert "| 100 | 50.0 | 40.0 |" in text
    assert "significantly" not in text
