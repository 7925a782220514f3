"""Test the choice of diverse sets on points that can be drawn on paper."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.asking.diversity import badge, interleave, k_center, typiclust, uncertain_clusters

NONE = np.empty((0, 2), np.float32)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def groups(
    sizes: tuple[int, ...], spread: float = 0.02
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Make clouds on a circle around (5, 5), middles first; return points and their clouds."""
    angles = 2 * np.pi * np.arange(len(sizes)) / len(sizes)
    of = np.repeat(np.arange(len(sizes)), sizes)
    middles = 5 + np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = middles[of] + rng().normal(0, spread, (len(of), 2))
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    points[firsts] = middles
    return points.astype(np.float32), of


def test_typiclust_takes_one_image_per_cluster_the_largest_first() -> None:
    points, of = groups((20, 60, 40))
    chosen = typiclust(points, NONE, 3, rng())
    assert of[chosen].tolist() == [1, 2, 0]


def test_typiclust_skips_clusters_with_asked_images() -> None:
    points, of = groups((40, 40, 40))
    of_second = np.flatnonzero(of == 1)
    asked, rest = of_second[:1], np.setdiff1d(np.arange(120), of_second[:1])
    chosen = rest[typiclust(points[rest], points[asked], 2, rng())]
    assert sorted(of[chosen]) == [0, 2]


def test_typiclust_takes_images_with_near_neighbors_and_no_outliers() -> None:
    line = np.array([[x, 0] for x in (*np.linspace(0, 1, 21), 30)], np.float32)
    points = np.concatenate([line, -line - 50])
    for position in typiclust(points, NONE, 2, rng()):
        assert position % 22 not in (0, 20, 21)  # neither an end of the line nor the outlier


def test_k_center_takes_what_is_farthest_from_everything_so_far() -> None:
    angles = np.radians([0, 90, 180, 200, 270])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    chosen = k_center(points, points[:1], 1)
    assert chosen.tolist() in ([2], [3])  # opposite of what was asked
    assert len(set(k_center(points, points[:1], 5).tolist())) == 5


def test_badge_takes_neither_confident_images_nor_duplicates() -> None:
    probs = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]], np.float32)
    points = np.array([[1, 0], [1, 0], [0, 1], [9, 9]], np.float32)
    for seed in range(10):
        chosen = badge(probs, points, 2, np.random.default_rng(seed)).tolist()
        assert sorted(chosen) in ([0, 2], [1, 2])


def test_uncertain_clusters_takes_the_most_uncertain_image_of_each() -> None:
    points, _ = groups((20, 20, 20))
    uncertainty = np.linspace(0.5, 0.9, 60, dtype=np.float32)
    chosen = uncertain_clusters(uncertainty, points, NONE, 3, rng())
    assert chosen.tolist() == [59, 39, 19]


def test_uncertain_clusters_takes_a_copy_only_if_nothing_else_is_left() -> None:
    points, _ = groups((1,) * 8, spread=0)
    copied = np.repeat(points, 20, axis=0)  # rows 0..19 are copies of one image, and so on
    uncertainty = np.repeat(np.linspace(0.9, 0.1, 8, dtype=np.float32), 20)
    asked = points[:1]
    chosen = uncertain_clusters(uncertainty, copied, asked, 7, rng())
    assert sorted(chosen // 20) == [1, 2, 3, 4, 5, 6, 7]
    assert len(set(uncertain_clusters(uncertainty, copied, asked, 30, rng()).tolist())) == 30


def test_least_confidence_asks_similar_images_but_uncertain_clusters_does_not() -> None:
    points, of = groups((50, 5, 5))
    uncertainty = np.where(of == 0, 0.9, 0.8).astype(np.float32)
    top = np.argsort(-uncertainty, kind="stable")[:3]
    assert set(of[top]) == {0}
    assert set(of[uncertain_clusters(uncertainty, points, NONE, 3, rng())]) == {0, 1, 2}


def test_similar_images_do_not_follow_each_other() -> None:
    points, of = groups((4, 4, 4))
    order = interleave(points, np.arange(12))
    assert of[order].tolist() == [0, 1, 2] * 4
    assert order[:3].tolist() == [0, 4, 8]  # the first of each group in the given order


def test_different_images_keep_their_order() -> None:
    points, _ = groups((1,) * 8)
    given = np.array([3, 1, 7, 0, 5])
    assert interleave(points, given).tolist() == given.tolist()


@pytest.mark.parametrize("count", [1, 5, 99])
def test_identical_images_are_each_taken_once(count: int) -> None:
    same = np.ones((5, 2), np.float32)
    probs = np.full((5, 2), 0.5, np.float32)
    n = min(count, 5)
    for chosen in (
        typiclust(same, NONE, count, rng()),
        k_center(same, same, count),
        badge(probs, same, count, rng()),
        uncertain_clusters(probs[:, 0], same, NONE, count, rng()),
    ):
        assert len(set(chosen.tolist())) == len(chosen) == n
