"""Draw learning curves with their intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.research.learning_curves import BASELINE, Row, curves, interval

GREY = "0.45"
LOG_FROM = 50  # times as many labels at the end as at the beginning


@dataclass(frozen=True)
class Line:
    """The learning curves of several seeds that are drawn as one line, as `curves` returns them."""

    label: str
    curves: pd.DataFrame
    color: str
    is_dashed: bool
    marker: str


def strategy_lines(rows: Sequence[Row], strategies: Sequence[str]) -> list[Line]:
    """Return one line for each strategy of a simulation."""
    lines = []
    for number, strategy in enumerate(strategies):
        is_baseline = strategy == BASELINE
        color, marker = GREY if is_baseline else f"C{number}", "os^Dvp*h"[number % 8]
        lines.append(Line(strategy, curves(rows, strategy), color, is_baseline, marker))
    return lines


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw the mean and the 95 % interval over seeds, as PNG and SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for line in lines:
        labels = np.array(line.curves.columns)
        mean, half = 100 * np.array([interval(at) for at in line.curves.to_numpy().T]).T
        axes.plot(
            labels, mean, "--" if line.is_dashed else "-", color=line.color, marker=line.marker,
            ms=4, label=f"{line.label}, {mean[-1]:.1f} % at {labels[-1]:,}",
        )  # fmt: skip
        axes.fill_between(labels, mean - half, mean + half, color=line.color, alpha=0.15, lw=0)
    budgets = sorted({labels for line in lines for labels in line.curves.columns})
    if budgets[-1] >= LOG_FROM * budgets[0]:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="labels", ylabel="accuracy on the test split, %")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=150)
    plt.close(figure)
