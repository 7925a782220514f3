"""The champion gate: McNemar's exact test on hand-made images."""

from __future__ import annotations

import numpy as np
import pytest

from backend.gate import SIGNIFICANCE, Right, compare


def right(text: str) -> Right:
    """One letter per image: + is right."""
    return np.array([letter == "+" for letter in text])


def test_only_images_on_which_the_versions_differ_count() -> None:
    found = compare(candidate=right("++--+-"), current=right("+++-++"))
    assert (found.fell, found.rose) == (2, 0)
    assert found.p_value == pytest.approx(1 / 4)  # two coins, both tails


def test_the_p_value_is_the_chance_of_at_least_as_many_falls() -> None:
    # Of 5 images that differ 4 fell: (5 + 1) of 32 outcomes are as bad or worse.
    found = compare(candidate=right("----+"), current=right("++++-"))
    assert found.p_value == pytest.approx(6 / 32)


def test_five_falls_alone_may_be_chance_and_six_are_not() -> None:
    def falls(count: int) -> float:
        return compare(candidate=right("-" * count), current=right("+" * count)).p_value

    assert falls(5) == pytest.approx(1 / 32)
    assert falls(5) > SIGNIFICANCE > falls(6)


def test_a_better_version_and_an_equal_one_are_never_worse() -> None:
    assert compare(candidate=right("++++++++"), current=right("--------")).p_value == 1.0
    assert compare(candidate=right("+-+-"), current=right("+-+-")).p_value == 1.0


def test_equal_versions_are_refused_no_more_often_than_said() -> None:
    rng = np.random.default_rng(0)
    refused = [
        compare(rng.random(400) < 0.7, rng.random(400) < 0.7).p_value < SIGNIFICANCE
        for _ in range(1000)
    ]
    assert 0 < np.mean(refused) < SIGNIFICANCE + 3 * np.sqrt(SIGNIFICANCE / 1000)
