"""Learning curves of a simulation: figures that can be checked by hand."""

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
    write_rows,
)


def rows(strategy: str, *runs: tuple[float, ...]) -> list[Row]:
    return [
        Row(strategy, repeat, number + 1, (number + 1) * 100, accuracy, accuracy, 2000, 0.02, "r1")
        for repeat, run in enumerate(runs)
        for number, accuracy in enumerate(run)
    ]


RANDOM = rows("random", (0.40, 0.50, 0.60), (0.42, 0.52, 0.61))


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", RANDOM)
    assert read_rows(tmp_path / "a.csv") == RANDOM


def test_a_curve_has_a_row_per_seed_and_a_column_per_budget() -> None:
    found = curves(RANDOM, "random")
    assert found.budgets == [100, 200, 300]
    assert found.accuracies.tolist() == [[0.40, 0.50, 0.60], [0.42, 0.52, 0.61]]


def test_an_interval_is_students_over_seeds() -> None:
    mean, half = interval(np.array([1.0, 2.0, 3.0]))
    assert mean == 2.0
    assert half == pytest.approx(4.303 / 3**0.5, abs=1e-3)  # t of two degrees of freedom


def test_labels_needed_are_read_off_between_two_points() -> None:
    curve = np.array([0.4, 0.5, 0.6])
    assert labels_needed([100, 200, 300], curve, 0.55) == pytest.approx(250)
    assert labels_needed([100, 200, 300], curve, 0.40) == 100
    assert labels_needed([100, 200, 300], curve, 0.70) == float("inf")
