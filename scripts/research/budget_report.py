"""Compare strategies with random selection at a few numbers of labels, with corrected p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import sem
from scipy.stats import t as student_t

from scripts.research.learning_curves import BASELINE, Row, curves, interval, saved

SIGNIFICANT = 0.05
ROUNDING = 1e-9  # the smallest standard error, because equal differences have none


@dataclass(frozen=True)
class Difference:
    """How much better a strategy is than random at a number of labels, paired by seed."""

    strategy: str
    labels: int
    mean: float
    half: float  # half the width of the 95 % interval; NaN with one seed
    p_value: float  # two-sided, from Student's t, not corrected; 1 with one seed


def differences(
    rows: Sequence[Row],
    strategies: Sequence[str],
    budgets: Sequence[int],
    reference: Sequence[Row] | None = None,
) -> list[Difference]:
    """Return each strategy's difference from random at each budget that all their runs reached.

    The random runs are those of another simulation if its rows are given as `reference`.
    """
    found = {name: curves(rows, name) for name in strategies if name != BASELINE}
    baseline = curves(rows if reference is None else reference, BASELINE)
    return [
        _difference(name, labels, own, baseline)
        for name, own in found.items()
        for labels in budgets
        if labels in own.columns and labels in baseline.columns
    ]


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Return p-values that are corrected for the number of comparisons (Holm, 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return corrected


def compare_with_random(
    rows: Sequence[Row], strategies: Sequence[str], budgets: Sequence[int]
) -> str:
    """Return a Markdown table of differences from random, or "" if there are no random runs."""
    if BASELINE not in strategies or len(strategies) == 1:
        return ""
    found = differences(rows, strategies, budgets)
    corrected = holm([difference.p_value for difference in found])
    p_of = dict(zip(found, corrected, strict=True))
    names = [name for name in strategies if name != BASELINE]
    lines = [
        "",
        "Difference from random in points, paired by seed, with its 95 % interval; bold if it is "
        f"significant after Holm's correction for all {len(found)} comparisons.\n",
        "| labels | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for labels in budgets:
        of_budget = {d.strategy: d for d in found if d.labels == labels}
        cells = [
            format_difference(of_budget[name], p_of[of_budget[name]] < SIGNIFICANT)
            if name in of_budget
            else ""
            for name in names
        ]
        lines.append(f"| {labels:,} | " + " | ".join(cells) + " |")
    lines.append("")
    for name in names:
        worse = [d for d in found if d.strategy == name and d.mean < 0 and p_of[d] < SIGNIFICANT]
        at = ", ".join(f"{d.labels:,}" for d in worse)
        verdict = f"worse than random at {at} labels" if at else "nowhere worse than random"
        lines.append(f"- after the correction, {name} is {verdict}")
    return "\n".join(lines) + "\n"


def labels_for_reference(
    rows: Sequence[Row], strategies: Sequence[str], reference: Sequence[Row]
) -> str:
    """Report how many labels each strategy needs for the final accuracy of random selection in
    another simulation.
    """
    baseline = curves(reference, BASELINE)
    last = baseline.columns[-1]
    target = f"the {baseline[last].mean():.1%} of the reference's random runs at {last:,} labels"
    lines = [f"- {name} {saved(curves(rows, name), baseline, target)}" for name in strategies]
    return "\n".join(["", *lines]) + "\n"


def _difference(name: str, labels: int, own: pd.DataFrame, baseline: pd.DataFrame) -> Difference:
    gains = (own[labels] - baseline[labels]).dropna().to_numpy()
    mean, half = interval(gains)
    p_value = 1.0
    if len(gains) > 1:
        error = max(float(sem(gains)), ROUNDING)
        p_value = float(2 * student_t.sf(abs(mean) / error, len(gains) - 1))
    return Difference(name, labels, mean, half, p_value)


def format_difference(difference: Difference, is_significant: bool) -> str:
    """Return a difference in points and its interval, bold if it is significant."""
    text = f"{100 * difference.mean:+.1f}"
    if np.isfinite(difference.half):
        text += f" ± {100 * difference.half:.1f}"
    return f"**{text}**" if is_significant else text
