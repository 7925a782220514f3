"""Test Wilson's interval against numbers worked out by hand."""

from __future__ import annotations

import pytest

from backend.measures.interval import interval_of


def test_the_interval_of_half_of_twenty_is_thirty_to_seventy_percent() -> None:
    # center (10 + 1.96²/2) / (20 + 1.96²) = 0.5; half width 1.96 * sqrt(5 + 0.9604) / 23.8416
    assert interval_of(0.5, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)


def test_none_of_three_has_a_wide_interval_and_no_bound_exceeds_one() -> None:
    # upper end of 0 of n: 1.96² / (n + 1.96²)
    assert interval_of(0.0, 3) == pytest.approx((0.0, 3.8416 / 6.8416), abs=1e-3)
    assert interval_of(1.0, 3) == pytest.approx((1 - 3.8416 / 6.8416, 1.0), abs=1e-3)


def test_without_images_the_interval_is_zero_to_one() -> None:
    assert interval_of(0.5, 0) == (0.0, 1.0)


def test_more_images_make_the_interval_narrower() -> None:
    few, many = interval_of(0.7, 100), interval_of(0.7, 2000)
    assert few[0] < many[0] < 0.7 < many[1] < few[1]
