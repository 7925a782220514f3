"""The SVG of the learning curve names what it shows, and is drawn once."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from backend.measures.forecast import CurvePoint, Forecast, TrackRecord
from backend.web.curve_picture import DARK, LIGHT, draw_curve

CURVE = tuple(
    CurvePoint(
        version=f"r{number:04d}",
        made_at="2026-01-01T12:00:00+00:00",
        labels=100 * number,
        accuracy=0.5 + 0.02 * number,
        low=0.48 + 0.02 * number,
        high=0.52 + 0.02 * number,
        images=2000,
        is_current=number == 3,
        refused="worse" if number == 2 else None,
    )
    for number in (1, 2, 3)
)
HEAD = replace(CURVE[2], version="r0003h01", labels=320, is_head=True, is_current=False)
OUTLOOK = Forecast(100, 0.015, -0.01, 0.04, TrackRecord(0, 0, 0.0))


def texts(svg: bytes) -> set[str]:
    root = ElementTree.fromstring(svg)
    return {node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")}


def draw(*, is_dark: bool = False, is_narrow: bool = False) -> bytes:
    return draw_curve((*CURVE, HEAD), OUTLOOK, is_dark=is_dark, is_narrow=is_narrow)


def test_every_full_version_is_named_and_every_mark_is_explained() -> None:
    shown = texts(draw())
    assert {"r0001", "r0002", "r0003", "labels", "accuracy on validation images"} <= shown
    assert {
        "95 % interval", "version", "head", "refused", "in service", "90 % forecast",
    } <= shown  # fmt: skip
    assert "r0003h01" not in shown


def test_a_long_curve_names_at_most_twelve_versions_including_the_newest() -> None:
    many = tuple(replace(CURVE[0], version=f"r{n:04d}", labels=10 * n) for n in range(1, 101))
    shown = texts(draw_curve(many, None, is_dark=False, is_narrow=False))
    names = {text for text in shown if text.startswith("r0")}
    assert len(names) <= 12
    assert "r0100" in names


def test_the_forecast_starts_at_the_last_full_version_even_after_a_thousand_heads() -> None:
    heads = tuple(replace(HEAD, version=f"r0003h{n:02d}", accuracy=0.1) for n in range(1002))
    assert not {*(*CURVE, *heads)[::-7]} & {*CURVE}  # every seventh of 1,005 points is drawn
    shown = texts(draw_curve((*CURVE, *heads), OUTLOOK, is_dark=False, is_narrow=False))
    assert "90 % forecast" in shown
    assert "90 % forecast" not in texts(draw_curve(heads, OUTLOOK, is_dark=False, is_narrow=False))


def test_a_curve_of_one_version_or_none_can_be_drawn() -> None:
    for points in (CURVE[:1], ()):
        assert draw_curve(points, None, is_dark=False, is_narrow=False).startswith(b"<?xml")


def test_dark_and_narrow_pictures_differ_and_the_same_one_is_drawn_once() -> None:
    pictures = [
        draw(is_dark=dark, is_narrow=narrow) for dark in (False, True) for narrow in (False, True)
    ]
    assert len(set(pictures)) == 4
    assert draw() is draw()
    assert LIGHT["line"].encode() in pictures[0]
    assert DARK["line"].encode() in pictures[2]


def luminance(color: str) -> float:
    """Return the relative luminance (WCAG 2.2)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colors", "card"), [(LIGHT, "#ffffff"), (DARK, "#161b22")])
def test_everything_to_be_read_has_aa_contrast_on_the_pages_cards(
    colors: dict[str, str], card: str
) -> None:
    for name in ("ink", "line", "other", "bad"):
        bright, dim = sorted((luminance(colors[name]), luminance(card)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, name
