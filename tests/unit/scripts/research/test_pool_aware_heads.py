"""Check by hand how heads use mirrored images, class shares and the unlabeled images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.base.arrays import Labels
from scripts.research.pool_aware_heads import (
    LABELS_ALONE,
    PLAIN,
    WITH_POOL,
    Material,
    distill,
    neighbor_graph,
    share_weights,
    spread,
)

HEADS = {**LABELS_ALONE, **WITH_POOL}


def material(n_pool: int = 300, n_labels: int = 30) -> tuple[Material, Labels]:
    """Return three classes, each around a corner of its own, and the truth of the images."""
    rng = np.random.default_rng(0)
    truth = np.arange(n_pool) % 3

    def embed() -> NDArray[np.float32]:
        points = np.eye(3, dtype=np.float32)[truth]
        return points + rng.normal(scale=0.1, size=points.shape).astype(np.float32)

    pool = embed()
    graph = neighbor_graph(pool, 5)
    made = Material(truth[:n_labels], 3, pool, embed(), embed(), embed(), graph, seed=0)
    return made, truth


@pytest.mark.parametrize("name", HEADS)
def test_every_head_tells_clear_classes_apart(name: str) -> None:
    given, truth = material()
    probs = HEADS[name](given)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert (probs.argmax(axis=1) == truth).mean() > 0.99


def test_a_graph_joins_neighbors_in_both_directions_and_no_image_with_itself() -> None:
    pairs = np.array([[1, 0.1], [1, 0.2], [-1, 0.1], [-1, 0.2]], np.float32)
    graph = neighbor_graph(pairs, 1).toarray()
    assert (graph > 0).tolist() == [
        [False, True, False, False],
        [True, False, False, False],
        [False, False, False, True],
        [False, False, True, False],
    ]
    np.testing.assert_allclose(graph, graph.T)
    np.testing.assert_allclose(graph.sum(axis=1), 1, rtol=1e-6)


def test_a_label_spreads_to_its_neighbors_only() -> None:
    pairs = np.array([[1, 0.1], [1, 0.2], [-1, 0.1], [-1, 0.2]], np.float32)
    start = np.array([[1, 0], [0, 0], [0, 1], [0, 0]], np.float32)
    found = spread(neighbor_graph(pairs, 1), start)
    assert found.argmax(axis=1).tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_distilling_the_labels_themselves_gives_the_head_that_is_fitted_to_them() -> None:
    given, _ = material(n_labels=60)
    targets = np.eye(3, dtype=np.float32)[given.labels]
    weights = np.ones(60, np.float32)
    head = distill(given.labeled, targets, weights, given.head, inverse_penalty=3.0)
    np.testing.assert_allclose(
        head.probs(given.held_out), given.head.probs(given.held_out), atol=0.01
    )


def test_weights_move_class_shares_towards_equal_shares() -> None:
    labels = np.array([0, 0, 0, 1])
    same = share_weights(labels, 2, n_prior=0)
    closer = share_weights(labels, 2, n_prior=2)  # 3 + 2 and 1 + 2 of 8
    equal = share_weights(labels, 2, n_prior=1e9)
    assert len(set(same.tolist())) == 1
    assert closer[:3].sum() == pytest.approx(5 / 8)
    assert closer[3] == pytest.approx(3 / 8)
    assert equal[:3].sum() == pytest.approx(equal[3])


def test_mirrored_images_change_the_probabilities() -> None:
    given, _ = material()
    plain = HEADS[PLAIN](given)
    mirrored = given.head.probs(given.mirrored_held_out)
    np.testing.assert_allclose(
        HEADS["mirrored probabilities"](given), (plain + mirrored) / 2, rtol=1e-5
    )
