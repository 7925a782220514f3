"""Write images of digits with noise."""

from __future__ import annotations

from pathlib import Path

from scripts.research.chaos.digit_pool import write_digit_pool


def test_all_images_differ_even_if_they_show_the_same_digit(tmp_path: Path) -> None:
    write_digit_pool(tmp_path, 1_900)  # scikit-learn has 1,797
    paths = sorted(tmp_path.glob("train/*/*.png"))
    assert len(paths) == 1_900
    assert {path.parent.name for path in paths} == set("0123456789")
    assert len({path.read_bytes() for path in paths}) == 1_900
