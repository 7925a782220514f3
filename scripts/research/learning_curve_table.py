"""Show learning curves: a Markdown table, what each strategy saves against random, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from backend.measures.forecast import CurvePoint, track_record
from backend.measures.interval import interval_of
from scripts.research.learning_curves import Curves, Row, curves, interval, labels_needed

BASELINE = "random"
RESAMPLES = 2000


def summarize(rows: Sequence[Row], strategies: Sequence[str]) -> str:
    """Return a Markdown table of accuracies, and what each strategy saves against random."""
    found = {strategy: curves(rows, strategy) for strategy in strategies}
    budgets = sorted(set.intersection(*(set(of_one.budgets) for of_one in found.values())))
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
    others = [s for s in strategies if s != BASELINE] if BASELINE in strategies else []
    lines += [f"- {s} {_saved(found[s], found[BASELINE])}" for s in others]
    if min(len(of_one.accuracies) for of_one in found.values()) > 1:
        lines += [
            f"- {strategy} is {_worse(found[strategy], found[BASELINE])}" for strategy in others
        ]
    return "\n".join([*lines, _calibration(rows), _forecasts(rows)]) + "\n"


def draw(rows: Sequence[Row], strategies: Sequence[str], path: Path) -> None:
    """Draw mean and 95 % interval over seeds, as PNG and SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, strategy in enumerate(strategies):
        found = curves(rows, strategy)
        mean, half = 100 * np.array([interval(at) for at in found.accuracies.T]).T
        color, style = ("0.45", "--") if strategy == BASELINE else (f"C{number}", "-")
        axes.plot(
            found.budgets, mean, style, color=color, marker="os^Dvp*h"[number % 8], ms=4,
            label=f"{strategy}, {mean[-1]:.1f} % at {found.budgets[-1]:,}",
        )  # fmt: skip
        axes.fill_between(found.budgets, mean - half, mean + half, color=color, alpha=0.15, lw=0)
    axes.set(xlabel="labels", ylabel="accuracy on the test split, %")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=150)
    plt.close(figure)


def _cell(found: Mapping[str, Curves], strategy: str, labels: int) -> str:
    mean, half = interval(found[strategy].at(labels))
    text = f"{100 * mean:.1f} ± {100 * half:.1f}" if np.isfinite(half) else f"{100 * mean:.1f}"
    if strategy == BASELINE or BASELINE not in found:
        return text
    gain, around = found[strategy].gain(found[BASELINE], labels)
    return f"{text} ({100 * gain:+.1f})" if abs(gain) > around else text


def _saved(own: Curves, baseline: Curves) -> str:
    """Report how many labels a strategy needs for random's final accuracy, resampling the seeds."""
    n_pairs = min(len(own.accuracies), len(baseline.accuracies))
    rng = np.random.default_rng(0)
    shares = []
    for chosen in [np.arange(n_pairs), *rng.integers(n_pairs, size=(RESAMPLES, n_pairs))]:
        target = float(baseline.accuracies[chosen, -1].mean())
        needed, theirs = (
            labels_needed(of_one.budgets, of_one.accuracies[chosen].mean(axis=0), target)
            for of_one in (own, baseline)
        )
        shares.append(needed / theirs)
    share, low, high = shares[0], *np.quantile(shares[1:], [0.025, 0.975], method="nearest")
    if not np.isfinite(share):
        return f"does not reach random's final accuracy with {own.budgets[-1]:,} labels"
    until = f"{high:.0%}" if np.isfinite(high) else "more than all"
    return f"needs {share:.0%} ({low:.0%} to {until}) of the labels for random's final accuracy"


def _worse(own: Curves, baseline: Curves) -> str:
    """Report the budgets at which a strategy is significantly worse than random."""
    gains = {n: own.gain(baseline, n) for n in own.budgets if n in baseline.budgets}
    worse = [f"{labels:,}" for labels, (gain, around) in gains.items() if gain < -around]
    if not worse:
        return "never significantly worse than random"
    return f"significantly worse at {', '.join(worse)} labels than random"


def _calibration(rows: Sequence[Row]) -> str:
    """State the largest calibration error, as a mean over seeds and of any run."""
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
    """State how often the gain of the next round lay in the interval that was forecast for it."""
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
