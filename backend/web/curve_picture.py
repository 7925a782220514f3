"""Draw the learning curve and its forecast as an SVG."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from backend.measures.forecast import CurvePoint, Forecast

POINTS_DRAWN = 150
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


@lru_cache(maxsize=64)
def draw_curve(
    curve: tuple[CurvePoint, ...], outlook: Forecast | None, *, is_dark: bool, is_narrow: bool
) -> bytes:
    """The SVG, its text as text and its background transparent; `curve` in the order of making.

    A long curve is thinned to POINTS_DRAWN points at most, the newest among them.
    """
    step = -(-len(curve) // POINTS_DRAWN) or 1
    points = curve[::-step][::-1]
    full = [p for p in curve if not p.is_head and p.refused is None]
    colors = DARK if is_dark else LIGHT
    with DRAWING, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tightloop"}):
        figure = Figure(figsize=NARROW_IN if is_narrow else WIDE_IN, layout="constrained")
        axes = figure.add_subplot()
        _dress(axes, colors)
        _draw_versions(axes, points, colors)
        if outlook is not None and full:
            _draw_outlook(axes, full[-1], outlook, colors)
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
    full = [p for p in points if not p.is_head and p.refused is None]
    heads = [p for p in points if p.is_head and p.refused is None]
    refused = [p for p in points if p.refused is not None]
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


def _draw_outlook(
    axes: Axes, now: CurvePoint, outlook: Forecast, colors: Mapping[str, str]
) -> None:
    x = [now.labels, now.labels + outlook.more_labels]
    expected, low, high = (
        [now.accuracy, now.accuracy + gain] for gain in (outlook.gain, outlook.low, outlook.high)
    )
    axes.plot(x, expected, "--", color=colors["other"], label="90 % forecast")
    axes.fill_between(
        x,
        low,
        high,
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
            xytext=(0, -15 if point.refused is not None else 9),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colors["bad"] if point.refused is not None else colors["ink"],
        )
