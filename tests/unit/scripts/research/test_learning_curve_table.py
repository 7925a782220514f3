"""Learning curves as a table and a picture: figures that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

from scripts.research.learning_curve_table import draw, summarize
from tests.unit.scripts.research.test_learning_curves import RANDOM, rows

BETTER = rows("auto", (0.50, 0.60, 0.70), (0.52, 0.62, 0.71))
WORSE = rows("margin", (0.30, 0.40, 0.50), (0.32, 0.42, 0.51))


def test_the_summary_says_how_many_labels_each_strategy_saves() -> None:
    text = summarize([*BETTER, *WORSE, *RANDOM], ["auto", "margin", "random"])
    assert "| 100 | 51.0 ± 12.7 (+10.0) | 31.0 ± 12.7 (-10.0) | 41.0 ± 12.7 |" in text
    # Random ends at 60.5 %; auto has 61 % at 200 labels and 51 % at 100: 195 of 300.
    assert "auto needs 65% (" in text
    assert "auto is never significantly worse" in text
    assert "margin does not reach random's final accuracy with 300 labels" in text
    assert "margin is significantly worse at 100, 200, 300 labels" in text
    assert "calibration error on the test split: 0.020 at most at any budget, 0.020 in any" in text


def test_a_strategy_like_random_saves_nothing_also_where_the_curve_is_flat() -> None:
    flat = (0.5, 0.6, 0.7, 0.7, 0.7)
    text = summarize(
        [*rows("margin", flat, flat), *rows("random", flat, flat)], ["margin", "random"]
    )
    assert "margin needs 100% (100% to 100%)" in text


def test_one_seed_alone_has_no_interval_and_no_claim() -> None:
    text = summarize([*BETTER[:3], *RANDOM[:3]], ["auto", "random"])
    assert "| 100 | 50.0 | 40.0 |" in text
    assert "significantly" not in text


def test_the_picture_is_there_as_png_and_svg(tmp_path: Path) -> None:
    draw([*BETTER, *RANDOM], ["auto", "random"], tmp_path / "curves")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "curves.svg").read_text()
