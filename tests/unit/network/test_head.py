"""Test the head on clouds of embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.base import row_blocks
from backend.base.arrays import RowView
from backend.base.errors import TooFewLabelsError
from backend.network.head import Head, cross_validated_probs, fit_head, shrink_shares


def clouds(
    n_classes: int, per_class: int, shift: float = 0.0
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Points around the corners of a cube, far from each other; `shift` moves all of them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(n_classes), per_class)
    corners = 4 * np.eye(8, dtype=np.float32)[:n_classes]
    points = corners[labels] + rng.normal(0, 0.5, (len(labels), 8)) + shift
    return points.astype(np.float16), labels


def test_probabilities_are_the_softmax_of_embedding_times_weight_plus_bias() -> None:
    head = Head(np.array([[1, 0], [0, 1]], np.float32), np.array([0, np.log(3)], np.float32))
    probs = head.probs(np.array([[0, 0], [np.log(3), 0]], np.float32))
    np.testing.assert_allclose(probs, [[0.25, 0.75], [0.5, 0.5]], atol=1e-6)


def test_a_large_pool_is_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = clouds(3, 20)
    head = fit_head(embeddings, labels, 3)
    expected = head.probs(embeddings)
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 25)
    sizes: list[int] = []

    class Counted(RowView[np.float16]):
        def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float16]:
            sizes.append(len(found := super().__getitem__(rows)))
            return found

    np.testing.assert_allclose(head.probs(Counted(embeddings, np.arange(60))), expected, rtol=1e-6)
    assert sizes == [25, 25, 10]
    assert head.probs(embeddings[:0]).shape == (0, 3)


@pytest.mark.parametrize("n_classes", [2, 3, 8])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_it_learns_any_number_of_classes_anywhere(n_classes: int, shift: float) -> None:
    embeddings, labels = clouds(n_classes, 20, shift)
    probs = fit_head(embeddings, labels, n_classes).probs(embeddings)
    assert (probs.argmax(axis=1) == labels).mean() > 0.98
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


def test_the_start_does_not_change_the_result() -> None:
    embeddings, labels = clouds(4, 30)
    before = fit_head(embeddings[::2], labels[::2], 4)
    cold = fit_head(embeddings, labels, 4).probs(embeddings)
    warm = fit_head(embeddings, labels, 4, before).probs(embeddings)
    np.testing.assert_allclose(warm, cold, atol=0.01)


def test_embeddings_of_another_scale_give_the_same_probabilities() -> None:
    embeddings, labels = clouds(3, 20)
    small = fit_head(embeddings, labels, 3).probs(embeddings)
    large = fit_head(embeddings * np.float16(16), labels, 3).probs(embeddings * np.float16(16))
    np.testing.assert_allclose(large, small, atol=0.01)


@pytest.mark.parametrize("seen", [2, 3])
def test_a_class_without_labels_gets_the_probability_of_about_one_image(seen: int) -> None:
    embeddings, labels = clouds(seen, 33)
    probs = fit_head(embeddings, labels, 5).probs(embeddings)
    assert probs.shape[1] == 5
    assert (probs.argmax(axis=1) == labels).all()
    assert np.median(probs[:, seen:]) == pytest.approx(1 / (33 * seen + 1), rel=0.5)


def test_a_single_class_is_too_few() -> None:
    with pytest.raises(TooFewLabelsError, match="1 class"):
        fit_head(np.ones((5, 8), np.float16), np.zeros(5, np.int64), 3)


def test_identical_embeddings_give_each_class_its_share() -> None:
    labels = np.repeat([0, 1], [30, 10])
    same = np.ones((40, 8), np.float16)
    probs = fit_head(same, labels, 2, shrinks_shares=False).probs(same[:1])
    np.testing.assert_allclose(probs, [[0.75, 0.25]], atol=0.01)
    shrunk = fit_head(same, labels, 2).probs(same[:1])
    np.testing.assert_allclose(shrunk, [shrink_shares(np.array([30, 10]))], atol=0.01)


def test_shares_that_chance_explains_become_equal() -> None:
    # Two shares of 0.6 and 0.4 lie 0.02 from equal ones; ten labels do by chance: 0.48 / 9 = 0.053.
    np.testing.assert_allclose(shrink_shares(np.array([6, 4])), [0.5, 0.5])


def test_shares_that_chance_does_not_explain_move_little() -> None:
    # (1 - 0.68) / 99 = 0.00323 of a distance of 0.18: each share moves by 1.8 % of 0.3.
    np.testing.assert_allclose(shrink_shares(np.array([80, 20])), [0.7946, 0.2054], atol=1e-4)


@pytest.mark.parametrize("counts", [[1, 1], [7, 7, 7], [1], [100, 1, 1]])
def test_shares_sum_to_one_and_keep_their_order(counts: list[int]) -> None:
    shares = shrink_shares(np.array(counts))
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()


def test_label_weights_count_beside_the_class_shares() -> None:
    embeddings, labels = clouds(2, 20)
    doubted = np.where(labels == 0, 1.0, 0.01).astype(np.float32)
    between = embeddings.mean(axis=0, keepdims=True).astype(np.float16)
    plain = fit_head(embeddings, labels, 2).probs(between)
    assert fit_head(embeddings, labels, 2, weights=doubted).probs(between)[0, 0] > plain[0, 0] + 0.1


def test_each_cross_validated_row_comes_from_a_head_that_has_not_seen_its_label() -> None:
    embeddings, labels = clouds(2, 25)
    flipped = labels.copy()
    flipped[7] = 1 - flipped[7]
    rng = np.random.default_rng(0)
    probs = cross_validated_probs(embeddings, flipped, 2, rng)
    # A head that had seen the wrong label could not be this sure of the right one.
    assert probs[7, labels[7]] > 0.9
    assert (probs.argmax(axis=1) == labels).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


def test_too_few_labels_of_a_second_class_cannot_be_cross_validated() -> None:
    embeddings, _ = clouds(2, 5)
    one_dog = np.array([1] + [0] * 9)
    with pytest.raises(TooFewLabelsError):
        cross_validated_probs(embeddings, one_dog, 2, np.random.default_rng(0))
