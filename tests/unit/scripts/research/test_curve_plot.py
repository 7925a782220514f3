"""Draw learning curves."""

from __future__ import annotations

from pathlib import Path

from scripts.research.curve_plot import draw, strategy_lines
from scripts.research.learning_curves import Row

ROWS = [
    Row(strategy, repeat, 1, labels, 0.4 + repeat / 10, 0.5, 2000, 0.02, "r1")
    for strategy in ("auto", "random")
    for repeat in (0, 1)
    for labels in (10, 1000)
]


def test_random_selection_is_drawn_as_a_dashed_grey_line() -> None:
    auto, random = strategy_lines(ROWS, ["auto", "random"])
    assert (auto.label, auto.color, auto.is_dashed) == ("auto", "C0", False)
    assert (random.label, random.color, random.is_dashed) == ("random", "0.45", True)
    assert auto.curves[1000].tolist() == [0.4, 0.5]


def test_the_picture_is_saved_as_png_and_svg(tmp_path: Path) -> None:
    draw(strategy_lines(ROWS, ["auto", "random"]), tmp_path / "curves")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "curves.svg").read_text()
