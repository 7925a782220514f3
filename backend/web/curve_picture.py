"""Draw the learning curve and its forecast as an SVG."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from backend.measures.evaluation import MIN_IMAGES
from backend.measures.forecast import CurvePoint, Forecast

POINTS_DRAWN = 150
NAMED_VERSIONS = 12  # with more versions, the names would overlap
WIDE_IN, NARROW_IN = (8.6, 3.7), (4.0, 3.4)
# Each color reaches a contrast of 4.5 against its background.
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
DRAWING = threading.Lock()  # matplotlib is not thread-safe


@lru_cache(maxsize=64)
def draw_curve(
    curve: tuple[CurvePoint, ...], outlook: Forecast | None, *, is_dark: bool, is_narrow: bool
) -> bytes:
    """Return an SVG with a transparent background and selectable text; `curve` is oldest first.

    A long curve is thinned to POINTS_DRAWN points, including the newest point.
    """
    drawn = [p for p in curve if p.images >= MIN_IMAGES]
    step = -(-len(drawn) // POINTS_DRAWN) or 1
    points = drawn[::-step][::-1]
    full = [p for p in drawn if not p.is_head and p.refused is None]
    colors = DARK if is_dark else LIGHT
    with DRAWING, mpl.rc_context(_style(colors)):
        figure = Figure(figsize=NARROW_IN if is_narrow else WIDE_IN, layout="constrained")
        axes = figure.add_subplot(xlabel="labels", ylabel="accuracy on validation images")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.xaxis.set_major_formatter(lambda labels, _: f"{labels:,.0f}")
        _draw_versions(axes, points, colors)
        if outlook is not None and full:
            _draw_outlook(axes, full[-1], outlook, colors)
        _name_versions(axes, points, colors)
        if points:
            axes.legend(loc="lower right")
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return content.getvalue()


def _style(colors: Mapping[str, str]) -> Any:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "tightloop",
        "text.color": colors["ink"],
        "axes.labelcolor": colors["ink"],
        "axes.edgecolor": colors["other"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": colors["grid"],
        "xtick.color": colors["ink"],
        "ytick.color": colors["ink"],
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }


def _draw_versions(axes: Axes, points: Sequence[CurvePoint], colors: Mapping[str, str]) -> None:
    full = sorted(
        (p for p in points if not p.is_head and p.refused is None), key=lambda p: p.labels
    )
    if full:
        x = [p.labels for p in full]
        bounds = np.array([(p.low, p.high) for p in full], float).T
        color = colors["line"]
        axes.fill_between(x, *bounds, color=color, alpha=0.15, lw=0, label="95 % interval")
        axes.vlines(x, *bounds, color=color, alpha=0.35)  # an area needs at least two versions
        axes.plot(x, [p.measured for p in full], "o-", color=color, label="version")
    heads = [p for p in points if p.is_head and p.refused is None]
    refused = [p for p in points if p.refused is not None]
    current = [p for p in points if p.is_current]
    ring = {"color": colors["ink"], "markersize": 13, "markerfacecolor": "none"}
    for kind, marker, style, name in (
        (heads, ".", {"color": colors["other"]}, "head"),
        (refused, "x", {"color": colors["bad"]}, "refused"),
        (current, "o", ring, "in service"),
    ):
        if kind:
            x, y = [p.labels for p in kind], [p.measured for p in kind]
            axes.plot(x, y, marker, label=name, linestyle="none", **style)


def _draw_outlook(
    axes: Axes, now: CurvePoint, outlook: Forecast, colors: Mapping[str, str]
) -> None:
    x = [now.labels, now.labels + outlook.more_labels]
    expected, low, high = (
        [now.measured, now.measured + gain] for gain in (outlook.gain, outlook.low, outlook.high)
    )
    axes.plot(x, expected, "--", color=colors["other"], label="90 % forecast")
    axes.fill_between(x, low, high, color=colors["other"], alpha=0.2, lw=0)


def _name_versions(axes: Axes, points: Sequence[CurvePoint], colors: Mapping[str, str]) -> None:
    full = [p for p in points if not p.is_head]
    labels = [p.labels for p in full]
    gap = (max(labels) - min(labels)) / NAMED_VERSIONS if full else 0
    last_named: int | None = None
    for point in reversed(full):
        if last_named is not None and abs(last_named - point.labels) <= gap:
            continue
        last_named = point.labels
        axes.annotate(
            point.version,
            (point.labels, point.measured),
            xytext=(0, -15 if point.refused is not None else 9),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colors["bad"] if point.refused is not None else colors["ink"],
        )
