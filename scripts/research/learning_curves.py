"""Learning curves: accuracies by strategy, seed and labels in; a table and a picture out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from backend.measures.forecast import CurvePoint, track_record
from backend.measures.interval import interval_of

Curves = NDArray[np.float64]  # (repeats, budgets)

BASELINE = "random"
RESAMPLES = 2000


@dataclass(frozen=True)
class Row:
    """What the version in service was worth after one round of one run."""

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
    """Keep rows as CSV."""
    draft = path.with_suffix(".draft")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    draft.replace(path)


def read_rows(path: Path) -> list[Row]:
    """Rows that were kept."""
    kinds = {"int": int, "float": float, "str": str}
    read = {field.name: kinds[str(field.type)] for field in fields(Row)}
    with path.open(newline="") as file:
        return [Row(**{k: read[k](v) for k, v in line.items()}) for line in csv.DictReader(file)]


def curves(rows: Sequence[Row], strategy: str) -> tuple[list[int], Curves]:
    """The budgets that every run of a strategy reached, and its test accuracies at them."""
    runs: dict[int, dict[int, float]] = {}
    for row in rows:
        if row.strategy == strategy:
            runs.setdefault(row.repeat, {})[row.labels] = row.test_accuracy
    budgets = sorted(set.intersection(*(set(run) for run in runs.values())))
    return budgets, np.array([[runs[r][n] for n in budgets] for r in sorted(runs)])


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean over seeds and the half-width of its 95 % interval (Student's t); NaN with one seed."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan")
    half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, float(half)


def labels_needed(budgets: Sequence[int], curve: NDArray[np.float64], target: float) -> float:
    """How many labels a curve needs to reach an accuracy, read off between two points; inf if it
    does not.
    """
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return float("inf")
    first = int(reached[0])
    if first == 0:
        return float(budgets[0])
    low, high = curve[first - 1], curve[first]
    part = (target - low) / (high - low)
    return float(budgets[first - 1] + part * (budgets[first] - budgets[first - 1]))


def summarize(rows: Sequence[Row], strategies: Sequence[str]) -> str:
    """A Markdown table of accuracies, and what each strategy saves against random."""
    found = {strategy: curves(rows, strategy) for strategy in strategies}
    budgets = sorted(set.intersection(*(set(at) for at, _ in found.values())))
    lines = [
        "Test accuracy in % (95 % interval over seeds); with a difference to random, paired by "
        "seed, where its interval excludes zero.\n",
        "| labels | " + " | ".join(strategies) + " |",
        "|---" * (len(strategies) + 1) + "|",
    ]
    for labels in budgets:
        cells = [_cell(found, strategy, labels) for strategy in strategies]
        lines.append(f"| {labels:,} | " + " | ".join(cells) + " |")
    lines.append("")
    if BASELINE in strategies and len(strategies) > 1:
        others = [strategy for strategy in strategies if strategy != BASELINE]
        lines += [_saved(found, strategy) for strategy in others]
        if min(len(accuracies) for _, accuracies in found.values()) > 1:
            lines += [_worse(found, strategy) for strategy in others]
    lines.append(_calibration(rows))
    lines.append(_forecasts(rows))
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], strategies: Sequence[str], path: Path) -> None:
    """The curves as PNG and SVG, mean and 95 % interval over seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, strategy in enumerate(strategies):
        budgets, accuracies = curves(rows, strategy)
        points = np.array([interval(accuracies[:, i]) for i in range(len(budgets))]) * 100
        mean, half = points.T
        color = "0.45" if strategy == BASELINE else f"C{number}"
        style = "--" if strategy == BASELINE else "-"
        axes.plot(
            budgets, mean, style, color=color, marker="os^Dvp*h"[number % 8], ms=4,
            label=f"{strategy}, {mean[-1]:.1f} % at {budgets[-1]:,}",
        )  # fmt: skip
        axes.fill_between(budgets, mean - half, mean + half, color=color, alpha=0.15, lw=0)
    axes.set(xlabel="labels", ylabel="accuracy on the test split, %")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for suffix in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=150)
    plt.close(figure)


def _cell(found: dict[str, tuple[list[int], Curves]], strategy: str, labels: int) -> str:
    budgets, accuracies = found[strategy]
    own = accuracies[:, budgets.index(labels)]
    mean, half = interval(own)
    text = f"{100 * mean:.1f} ± {100 * half:.1f}" if np.isfinite(half) else f"{100 * mean:.1f}"
    if strategy == BASELINE or BASELINE not in found:
        return text
    at, baseline = found[BASELINE]
    n_pairs = min(len(own), len(baseline))
    gain, around = interval(own[:n_pairs] - baseline[:n_pairs, at.index(labels)])
    return f"{text} ({100 * gain:+.1f})" if abs(gain) > around else text


def _saved(found: dict[str, tuple[list[int], Curves]], strategy: str) -> str:
    """How many labels a strategy needs for random's final accuracy, resampling the seeds."""
    at, baseline = found[BASELINE]
    budgets, own = found[strategy]
    n_pairs = min(len(own), len(baseline))
    rng = np.random.default_rng(0)
    shares = []
    for chosen in [np.arange(n_pairs), *rng.integers(n_pairs, size=(RESAMPLES, n_pairs))]:
        target = float(baseline[chosen, -1].mean())
        theirs = labels_needed(at, baseline[chosen].mean(axis=0), target)
        shares.append(labels_needed(budgets, own[chosen].mean(axis=0), target) / theirs)
    share, low, high = shares[0], *np.quantile(shares[1:], [0.025, 0.975], method="nearest")
    if not np.isfinite(share):
        return f"- {strategy} does not reach random's final accuracy with {budgets[-1]:,} labels"
    until = f"{high:.0%}" if np.isfinite(high) else "more than all"
    needed = f"{share:.0%} ({low:.0%} to {until})"
    return f"- {strategy} needs {needed} of the labels for random's final accuracy"


def _worse(found: dict[str, tuple[list[int], Curves]], strategy: str) -> str:
    """Where a strategy is significantly worse than random."""
    at, baseline = found[BASELINE]
    budgets, own = found[strategy]
    n_pairs = min(len(own), len(baseline))
    worse = []
    for labels in (n for n in budgets if n in at):
        pairs = own[:n_pairs, budgets.index(labels)] - baseline[:n_pairs, at.index(labels)]
        gain, around = interval(pairs)
        if gain < -around:
            worse.append(f"{labels:,}")
    if not worse:
        return f"- {strategy} is never significantly worse than random"
    return f"- {strategy} is significantly worse at {', '.join(worse)} labels than random"


def _calibration(rows: Sequence[Row]) -> str:
    """The largest calibration error, as a mean over seeds and of any run."""
    errors: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        errors.setdefault((row.strategy, row.labels), []).append(row.calibration_error)
    mean = max(float(np.mean(of_seeds)) for of_seeds in errors.values())
    return (
        f"- calibration error on the test split: {mean:.3f} at most at any budget, "
        f"{max(row.calibration_error for row in rows):.3f} in any one run"
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
    """How often the gain of the next round lay in the interval that was forecast for it."""
    runs: dict[tuple[str, int], list[CurvePoint]] = {}
    for row in sorted(rows, key=lambda row: row.round):
        runs.setdefault((row.strategy, row.repeat), []).append(_point(row))
    records = [track_record(curve) for curve in runs.values()]
    n_made = sum(record.forecasts for record in records)
    if not n_made:
        return "- forecasts: the curves are too short for any"
    inside = sum(record.inside for record in records) / n_made
    error = sum(record.mean_error * record.forecasts for record in records) / n_made
    return (
        f"- forecasts of the next round: {inside:.0%} of {n_made} gains inside their interval, "
        f"off by {100 * error:.1f} points on average"
    )
