"""The learning curve as a picture: versions and a forecast in, SVG out."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

NAMED_VERSIONS = 12  # more names than these would cover each other
WIDE_IN, NARROW_IN = (8.6, 3.7), (4.0, 3.4)
# Each reaches a contrast of 4.5 against its background.
LIGHT = {
    "ink": "#1f2328",
    "grid": "#d8dee4",
    "line": "#0757ba",
    "other": "#59636e",
    "bad": "#b42318",
}
DARK = {
    "ink": "#e6edf3",
    "grid": "#30363d",
    "line": "#79b8ff",
    "other": "#9aa4af",
    "bad": "#ff8f85",
}
DRAWING = threading.Lock()  # matplotlib's caches know one thread


class CurvePoint(NamedTuple):
    """One version: accuracies in 0..1 with their interval, measured on the validation split."""

    version: str
    labels: int
    accuracy: float
    low: float
    high: float
    is_head: bool
    is_current: bool
    is_refused: bool


class Ahead(NamedTuple):
    """The forecast: the last full version, and what one with more labels should reach."""

    labels: int
    accuracy: float
    more_labels: int
    expected: float
    low: float
    high: float


@lru_cache(maxsize=64)
def draw_curve(
    points: Sequence[CurvePoint], ahead: Ahead | None, *, is_dark: bool, is_narrow: bool
) -> bytes:
    """The SVG, its text as text and its background transparent; `points` in the order of making."""
    colors = DARK if is_dark else LIGHT
    with DRAWING, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tightloop"}):
        figure = Figure(figsize=NARROW_IN if is_narrow else WIDE_IN, layout="constrained")
        axes = figure.add_subplot()
        _dress(axes, colors)
        _draw_versions(axes, points, colors)
        if ahead is not None:
            _draw_ahead(axes, ahead, colors)
        _name_versions(axes, points, colors)
        if points:
            axes.legend(loc="lower right", frameon=False, labelcolor=colors["ink"], fontsize=9)
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return content.getvalue()


def _dress(axes: Axes, colors: Mapping[str, str]) -> None:
    axes.set_xlabel("labels", color=colors["ink"])
    axes.set_ylabel("right on validation images", color=colors["ink"])
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.xaxis.set_major_formatter(lambda labels, _: f"{labels:,.0f}")
    axes.grid(color=colors["grid"], linewidth=0.8)
    axes.tick_params(colors=colors["ink"], labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colors["other"])


def _draw_versions(axes: Axes, points: Sequence[CurvePoint], colors: Mapping[str, str]) -> None:
    full = [p for p in points if not p.is_head and not p.is_refused]
    heads = [p for p in points if p.is_head and not p.is_refused]
    refused = [p for p in points if p.is_refused]
    if full:
        by_labels = sorted(full, key=lambda p: p.labels)
        x = [p.labels for p in by_labels]
        bounds = [p.low for p in by_labels], [p.high for p in by_labels]
        axes.fill_between(
            x, *bounds, color=colors["line"], alpha=0.15, linewidth=0, label="95 % interval"
        )
        axes.vlines(
            x, *bounds, color=colors["line"], alpha=0.35
        )  # of a single version all there is
        axes.plot(x, [p.accuracy for p in by_labels], "o-", color=colors["line"], label="version")
    for kind, mark, color, name in (
        (heads, ".", colors["other"], "head"),
        (refused, "x", colors["bad"], "refused"),
    ):
        if kind:
            x, y = [p.labels for p in kind], [p.accuracy for p in kind]
            axes.plot(x, y, mark, color=color, label=name, linestyle="none")
    for point in points:
        if point.is_current:
            axes.plot(
                *(point.labels, point.accuracy, "o"),
                markersize=13,
                markerfacecolor="none",
                markeredgecolor=colors["ink"],
                linestyle="none",
                label="in service",
            )


def _draw_ahead(axes: Axes, ahead: Ahead, colors: Mapping[str, str]) -> None:
    x = [ahead.labels, ahead.labels + ahead.more_labels]
    axes.plot(
        x, [ahead.accuracy, ahead.expected], "--", color=colors["other"], label="90 % forecast"
    )
    axes.fill_between(
        x,
        [ahead.accuracy, ahead.low],
        [ahead.accuracy, ahead.high],
        color=colors["other"],
        alpha=0.2,
        linewidth=0,
    )


def _name_versions(axes: Axes, points: Sequence[CurvePoint], colors: Mapping[str, str]) -> None:
    full = [p for p in points if not p.is_head]
    labels = [p.labels for p in full]
    gap = (max(labels) - min(labels)) / NAMED_VERSIONS if full else 0
    next_to: int | None = None
    for point in reversed(full):
        if next_to is not None and abs(next_to - point.labels) <= gap:
            continue
        next_to = point.labels
        axes.annotate(
            point.version,
            (point.labels, point.accuracy),
            xytext=(0, -15 if point.is_refused else 9),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colors["bad"] if point.is_refused else colors["ink"],
        )
