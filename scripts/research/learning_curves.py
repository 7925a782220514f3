"""Compare learning curves: accuracy by strategy, seed and number of labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.stats import sem
from scipy.stats import t as student_t

from backend.base.errors import SettingsError
from backend.measures.forecast import CurvePoint, track_record
from backend.measures.interval import interval_of

Floats = NDArray[np.float64]
AnyRow = TypeVar("AnyRow")
BASELINE = "random"
RESAMPLES = 2000


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


def write_rows(path: Path, rows: Sequence[object]) -> None:
    """Write rows, which are dataclasses of one type, to a CSV file atomically."""
    draft = path.with_suffix(".draft")
    pd.DataFrame(rows).to_csv(draft, index=False)
    draft.replace(path)


def read_rows(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    """Read the rows of a file written by `write_rows`."""
    lines = path.read_text().splitlines()
    adapter = TypeAdapter(kind)
    return [adapter.validate_python(row) for row in csv.DictReader(lines)]


def curves(rows: Sequence[Row], strategy: str) -> pd.DataFrame:
    """Return the test accuracies of a strategy's runs: a row per seed, and a column per number of
    labels that every run reached.

    Raises SettingsError if the strategy has no run.
    """
    if all(row.strategy != strategy for row in rows):
        known = ", ".join(sorted({row.strategy for row in rows}))
        raise SettingsError(f"the simulation has no run with {strategy}, only with {known}")
    runs = pd.DataFrame([row for row in rows if row.strategy == strategy])
    return runs.pivot(index="repeat", columns="labels", values="test_accuracy").dropna(axis=1)


def gain(own: pd.DataFrame, baseline: pd.DataFrame, labels: int) -> tuple[float, float]:
    """Return the mean gain over a baseline, paired by seed, and the half-width of its interval."""
    return interval((own[labels] - baseline[labels]).dropna().to_numpy())


def interval(values: Floats) -> tuple[float, float]:
    """Return the mean over seeds and the half-width of its 95 % interval (Student's t).

    The half-width is NaN if there is only one seed.
    """
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan")
    return mean, float(student_t.ppf(0.975, len(values) - 1) * sem(values))


def labels_needed(budgets: Sequence[int], curve: Floats, target: float) -> float:
    """Return how many labels a curve needs to reach an accuracy, or inf if it never does.

    Interpolates between budgets.

    """
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return float("inf")
    around = slice(max(0, reached[0] - 1), reached[0] + 1)
    return float(np.interp(target, curve[around], budgets[around]))


def summarize(rows: Sequence[Row], strategies: Sequence[str], shown: Sequence[int] = ()) -> str:
    """Return a Markdown table of accuracies, and how many labels each strategy saves.

    If `shown` is not empty, the table contains only these numbers of labels.
    """
    found = {strategy: curves(rows, strategy) for strategy in strategies}
    budgets = sorted(set.intersection(*(set(of_one.columns) for of_one in found.values())))
    budgets = [labels for labels in budgets if not shown or labels in shown]
    lines = [
        "Test accuracy in % (95 % interval over seeds), and in parentheses the difference from "
        "random, paired by seed, if its interval excludes zero.\n",
        "| labels | " + " | ".join(strategies) + " |",
        "|---" * (len(strategies) + 1) + "|",
    ]
    for labels in budgets:
        cells = [_cell(of_one, found.get(BASELINE), labels) for of_one in found.values()]
        lines.append(f"| {labels:,} | " + " | ".join(cells) + " |")
    lines.append("")
    if BASELINE in found:
        baseline = found.pop(BASELINE)
        lines += [f"- {name} {saved(own, baseline)}" for name, own in found.items()]
        if min(map(len, [baseline, *found.values()])) > 1:
            lines += [f"- {name} is {_worse(own, baseline)}" for name, own in found.items()]
    return "\n".join([*lines, _calibration(rows), _forecasts(rows)]) + "\n"


def _cell(own: pd.DataFrame, baseline: pd.DataFrame | None, labels: int) -> str:
    mean, half = interval(own[labels].to_numpy())
    text = f"{100 * mean:.1f} ± {100 * half:.1f}" if np.isfinite(half) else f"{100 * mean:.1f}"
    if baseline is None:
        return text
    difference, around = gain(own, baseline, labels)
    return f"{text} ({100 * difference:+.1f})" if abs(difference) > around else text


def saved(
    own: pd.DataFrame, baseline: pd.DataFrame, target: str = "random's final accuracy"
) -> str:
    """Report how many labels a strategy needs to reach the final accuracy of random selection.

    The interval comes from resampling the seeds. `target` is how the report names that accuracy.
    """
    n_pairs = min(len(own), len(baseline))
    rng = np.random.default_rng(0)
    shares = []
    for chosen in [np.arange(n_pairs), *rng.integers(n_pairs, size=(RESAMPLES, n_pairs))]:
        means = [of_one.to_numpy()[chosen].mean(axis=0) for of_one in (own, baseline)]
        needed, theirs = (
            labels_needed(of_one.columns, mean, means[1][-1])
            for of_one, mean in zip((own, baseline), means, strict=True)
        )
        shares.append(needed / theirs)
    share, low, high = shares[0], *np.quantile(shares[1:], [0.025, 0.975], method="nearest")
    if not np.isfinite(share):
        return f"does not reach {target} with {own.columns[-1]:,} labels"
    until = f"{high:.0%}" if np.isfinite(high) else "more than all"
    return f"needs {share:.0%} ({low:.0%} to {until}) of the labels for {target}"


def _worse(own: pd.DataFrame, baseline: pd.DataFrame) -> str:
    """Report at how many labels a strategy is significantly worse than random selection."""
    gains = {n: gain(own, baseline, n) for n in own.columns.intersection(baseline.columns)}
    worse = [f"{labels:,}" for labels, (mean, around) in gains.items() if mean < -around]
    if not worse:
        return "never significantly worse than random"
    return f"significantly worse than random at {', '.join(worse)} labels"


def _calibration(rows: Sequence[Row]) -> str:
    """Report the largest calibration error, as the mean over seeds and in any single run."""
    errors = pd.DataFrame(rows).groupby(["strategy", "labels"]).calibration_error
    return (
        f"- calibration error on the test split: {errors.mean().max():.3f} at most at any budget, "
        f"{errors.max().max():.3f} in any one run"
    )


def _point(row: Row) -> CurvePoint:
    low, high = interval_of(row.validation_accuracy, row.validation_images)
    return CurvePoint(
        version=f"r{row.round:04d}",
        made_at="",
        labels=row.labels,
        accuracy=row.validation_accuracy,
        low=low,
        high=high,
        images=row.validation_images,
    )


def _forecasts(rows: Sequence[Row]) -> str:
    """Report how often the next round's gain lay in its forecast interval."""
    runs: dict[tuple[str, int], list[CurvePoint]] = {}
    for row in sorted(rows, key=lambda row: row.round):
        runs.setdefault((row.strategy, row.repeat), []).append(_point(row))
    records = [track_record(curve) for curve in runs.values()]
    n_made = sum(record.forecasts for record in records)
    if not n_made:
        return "- forecasts: none, the curves are too short"
    inside = sum(record.inside for record in records) / n_made
    error = sum(record.mean_error * record.forecasts for record in records) / n_made
    return (
        f"- forecasts of the next round: {inside:.0%} of {n_made} gains inside their interval, "
        f"off by {100 * error:.1f} points on average"
    )
