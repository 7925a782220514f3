"""Test acquisition scores by hand-made numbers and by properties over any probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.asking.acquisition import ACQUISITIONS, entropy, least_confidence, margin
from backend.base.arrays import Probs
from backend.base.strategy_names import ResolvedName

CERTAIN = [1.0, 0.0, 0.0, 0.0]
UNDECIDED = [0.25, 0.25, 0.25, 0.25]
TORN = [0.5, 0.4, 0.1, 0.0]


def probs(*rows: list[float]) -> Probs:
    return np.array(rows, dtype=np.float32)


@st.composite
def any_probs(draw: st.DrawFn) -> Probs:
    shape = draw(st.tuples(st.integers(1, 20), st.integers(2, 12)))
    weights = draw(arrays(np.float64, shape, elements=st.floats(0, 1e6)))
    weights[weights.sum(axis=1) == 0] = 1.0
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def test_least_confidence_is_what_the_top_class_lacks() -> None:
    assert least_confidence(probs(CERTAIN, TORN, UNDECIDED)) == pytest.approx([0.0, 0.5, 0.75])


def test_margin_is_one_minus_the_lead_of_the_top_class() -> None:
    assert margin(probs(CERTAIN, TORN, UNDECIDED)) == pytest.approx([0.0, 0.9, 1.0])


def test_entropy_is_a_share_of_the_largest_possible() -> None:
    half = [0.5, 0.5, 0.0, 0.0]  # log 2 of log 4
    assert entropy(probs(CERTAIN, half, UNDECIDED)) == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize("name", ACQUISITIONS)
@given(rows=any_probs())
def test_every_score_is_between_zero_and_one(name: ResolvedName, rows: Probs) -> None:
    scores = ACQUISITIONS[name](rows)
    assert scores.dtype == np.float32
    assert scores.shape == (len(rows),)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("name", ACQUISITIONS)
@given(rows=any_probs(), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_classes_does_not_matter(
    name: ResolvedName, rows: Probs, seed: int
) -> None:
    shuffled = np.random.default_rng(seed).permuted(rows, axis=1)
    assert ACQUISITIONS[name](shuffled) == pytest.approx(ACQUISITIONS[name](rows), abs=1e-5)


@pytest.mark.parametrize("name", ACQUISITIONS)
@given(rows=any_probs())
def test_nothing_is_more_informative_than_being_undecided(name: ResolvedName, rows: Probs) -> None:
    n_classes = rows.shape[1]
    undecided = np.full((1, n_classes), 1 / n_classes, dtype=np.float32)
    assert (ACQUISITIONS[name](rows) <= ACQUISITIONS[name](undecided) + 1e-5).all()
