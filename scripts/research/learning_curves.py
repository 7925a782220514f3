"""Learning curves: the accuracy of versions by strategy, seed and number of labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.stats import t as student_t

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """The accuracy of the version in service after one round of one run."""

    strategy: str
    repeat: int
    round: int
    labels: int
    test_accuracy: float
    validation_accuracy: float
    validation_images: int
    calibration_error: float  # on the test split, after scaling
    version: str


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, all or none."""
    draft = path.with_suffix(".draft")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))
    draft.replace(path)


def read_rows(path: Path) -> list[Row]:
    """Read what write_rows wrote."""
    with path.open(newline="") as file:
        return TypeAdapter(list[Row]).validate_python(list(csv.DictReader(file)))


@dataclass(frozen=True)
class Curves:
    """The test accuracies of a strategy's runs."""

    budgets: list[int]  # numbers of labels that every run reached
    accuracies: Floats  # (seeds, budgets)

    def at(self, labels: int) -> Floats:
        """Return the accuracy of each seed at one budget."""
        return self.accuracies[:, self.budgets.index(labels)]

    def gain(self, baseline: Curves, labels: int) -> tuple[float, float]:
        """Return the mean gain over a baseline, paired by seed, and its interval's half-width."""
        n_pairs = min(len(self.accuracies), len(baseline.accuracies))
        return interval(self.at(labels)[:n_pairs] - baseline.at(labels)[:n_pairs])


def curves(rows: Sequence[Row], strategy: str) -> Curves:
    """Collect the curves of a strategy."""
    runs: dict[int, dict[int, float]] = {}
    for row in rows:
        if row.strategy == strategy:
            runs.setdefault(row.repeat, {})[row.labels] = row.test_accuracy
    budgets = sorted(set.intersection(*map(set, runs.values())))
    return Curves(budgets, np.array([[runs[r][n] for n in budgets] for r in sorted(runs)]))


def interval(values: Floats) -> tuple[float, float]:
    """Return the mean over seeds and the half-width of its 95 % interval (Student's t).

    The half-width is NaN with one seed.
    """
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan")
    half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, float(half)


def labels_needed(budgets: Sequence[int], curve: Floats, target: float) -> float:
    """Return how many labels a curve needs for an accuracy, interpolated between two budgets; inf
    if it does not reach it.
    """
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return float("inf")
    around = slice(max(0, reached[0] - 1), reached[0] + 1)
    return float(np.interp(target, curve[around], budgets[around]))
