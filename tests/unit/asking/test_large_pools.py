"""Test the choice among so many images that their embeddings are read in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backend.asking import clusters, directions, diversity
from backend.asking.clusters import Clusters
from backend.asking.directions import Directions, center_of
from backend.asking.diversity import (
    _highest,
    _take_turns,
    badge,
    interleave,
    k_center,
    typiclust,
    uncertain_clusters,
)
from backend.asking.query import SETS, Candidates, rank, select
from backend.base import row_blocks
from backend.base.arrays import EmbeddingRows, Positions, RowView
from backend.base.strategy_names import ResolvedName
from tests.unit.asking.test_diversity import NONE, groups, rng

BLOCK_ROWS = 64


class InPieces(RowView[np.floating[Any]]):
    """Rows of a file, of which at most one block may be read at once."""

    def __init__(self, rows: NDArray[np.floating[Any]]) -> None:
        super().__init__(rows, np.arange(len(rows)))
        self.n_read = 0

    def __getitem__(self, rows: slice | Positions) -> NDArray[np.floating[Any]]:
        found = super().__getitem__(rows)
        assert len(found) <= BLOCK_ROWS, "more than one block was read at once"
        self.n_read += len(found)
        return found


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read pools of 10 images and more in blocks of 64 rows, and files in groups of 8."""
    monkeypatch.setattr(row_blocks, "LARGE_POOL", 10)
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", BLOCK_ROWS)
    monkeypatch.setattr(row_blocks, "GROUP_ROWS", 8)
    monkeypatch.setattr(directions, "GROUP_ROWS", 8)


def shuffled_groups(sizes: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    points, of = groups(sizes)
    order = rng().permutation(len(of))
    return points[order], of[order]


def choose(name: ResolvedName, rows: EmbeddingRows, count: int) -> list[int]:
    """Choose `count` of 300 images, of which one image has been queried."""
    probs = rng().dirichlet(np.ones(4), 300).astype(np.float32)
    asked = np.array([[6, 5]], np.float32)
    return SETS[name](probs, rows, asked, count, rng()).tolist()


def test_a_pool_is_large_from_200_000_images_on() -> None:
    assert not row_blocks.is_large(range(199_999))
    assert row_blocks.is_large(range(200_000))


@pytest.mark.parametrize("name", SETS)
def test_below_the_limit_all_images_are_compared_in_memory(
    name: ResolvedName, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, _ = shuffled_groups((100, 150, 50))
    expected = choose(name, points, 20)
    monkeypatch.setattr(row_blocks, "LARGE_POOL", 301)
    monkeypatch.setattr(diversity, "cluster_blocks", None)  # fails if it is called
    monkeypatch.setattr(diversity, "_remote", None)
    monkeypatch.setattr(diversity, "GREEDY_MAX", 0)
    monkeypatch.setattr(directions, "center_of", None)
    assert choose(name, RowView(points, np.arange(300)), 20) == expected


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", SETS)
def test_at_most_one_block_is_read_at_once(name: ResolvedName) -> None:
    points, _ = shuffled_groups((100, 150, 50))
    rows = InPieces(points)
    chosen = choose(name, rows, 20)
    assert len(set(chosen)) == 20
    assert rows.n_read > 0
    interleave(rows, np.array(chosen))


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("count", [1, 7, 300, 999])
def test_each_image_is_chosen_once_even_if_few_are_compared(
    name: ResolvedName, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diversity, "GREEDY_MAX", 5)
    monkeypatch.setattr(diversity, "COMPARED_MAX", 5)
    monkeypatch.setattr(diversity, "CLUSTERS_MAX", 50)
    monkeypatch.setattr(clusters, "MEMBERS_MAX", 3)
    points, _ = shuffled_groups((100, 150, 50))
    chosen = choose(name, points, count)
    assert len(set(chosen)) == len(chosen) == min(count, 300)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", SETS)
def test_the_same_seed_gives_the_same_choice(name: ResolvedName) -> None:
    points, _ = shuffled_groups((100, 150, 50))
    assert choose(name, points, 20) == choose(name, points, 20)


@pytest.mark.usefixtures("small_limits")
def test_a_large_pool_can_be_selected_from_and_ranked() -> None:
    points, _ = shuffled_groups((100, 150, 50))
    probs = rng().dirichlet(np.ones(4), 300).astype(np.float32)
    candidates = Candidates([f"i{n}" for n in range(300)], probs, InPieces(points), points[:0])
    query = select("uncertain_clusters", candidates, 30, rng())
    assert len(set(query.image_ids)) == 30
    assert sorted(rank("uncertain_clusters", candidates, rng())) == pytest.approx(
        np.arange(300) / 300
    )


@pytest.mark.usefixtures("small_limits")
def test_typiclust_takes_one_image_of_each_cluster_the_largest_first() -> None:
    points, of = shuffled_groups((100, 300, 200))
    chosen = typiclust(InPieces(points), NONE, 3, rng())
    assert of[chosen].tolist() == [1, 2, 0]


@pytest.mark.usefixtures("small_limits")
def test_typiclust_avoids_clusters_with_asked_images() -> None:
    points, of = shuffled_groups((100, 300, 300, 100))
    asked = np.array([np.flatnonzero(of == 1)[0], np.flatnonzero(of == 2)[0]])
    rest = np.setdiff1d(np.arange(800), asked)
    chosen = typiclust(points[rest], points[asked], 2, rng())
    assert sorted(of[rest][chosen]) == [0, 3]  # the smaller ones


@pytest.mark.usefixtures("small_limits")
def test_typiclust_takes_images_from_the_densest_part_of_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clusters, "MEMBERS_MAX", 60)
    angles = np.concatenate([np.linspace(-0.5, 0.5, 300), np.linspace(0.3, 0.31, 100)])
    of_dense = np.arange(400) >= 300
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.concatenate([points, -points]).astype(np.float32)
    order = rng().permutation(800)
    for seed in range(5):
        chosen = order[typiclust(points[order], NONE, 2, np.random.default_rng(seed))]
        assert sorted(chosen // 400) == [0, 1]
        assert of_dense[chosen % 400].all()


def test_clusters_with_the_fewest_asked_come_first_then_the_largest_and_outliers_last() -> None:
    def members(cluster: int) -> tuple[Positions, Directions]:
        return np.array([10 * cluster, 10 * cluster + 1]), np.ones((2, 2), np.float32)

    found = Clusters(np.array([90, 4, 50, 60]), np.array([1, 0, 0, 0]), members)
    assert _take_turns(found, 5).tolist() == [30, 20, 0, 31, 21]
    assert _take_turns(found, 99).tolist() == [30, 20, 0, 31, 21, 1, 10, 11]


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("count", [3, 20, 100])
def test_uncertain_clusters_chooses_as_in_memory(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = rng()
    points = generator.normal(size=(2000, 8)).astype(np.float16)
    uncertainty = generator.random(2000, np.float32)
    asked = points[:50]
    chosen = uncertain_clusters(uncertainty, InPieces(points), asked, count, rng())
    monkeypatch.setattr(row_blocks, "LARGE_POOL", 2001)
    assert chosen.tolist() == uncertain_clusters(uncertainty, points, asked, count, rng()).tolist()


@pytest.mark.usefixtures("small_limits")
def test_copies_of_asked_and_of_chosen_images_come_last() -> None:
    points, _ = groups((1,) * 8, spread=0)
    copied = np.repeat(points, 20, axis=0)  # rows 0..19 are copies of one image, and so on
    uncertainty = np.repeat(np.linspace(0.9, 0.1, 8, dtype=np.float32), 20)
    chosen = uncertain_clusters(uncertainty, copied, points[:1], 8, rng())
    assert chosen.tolist() == [20, 40, 60, 80, 100, 120, 140, 0]


@pytest.mark.usefixtures("small_limits")
def test_images_that_were_not_compared_come_before_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diversity, "COMPARED_MAX", 40)
    points, _ = groups((1,) * 8, spread=0)
    copied = np.repeat(points, 20, axis=0)  # the first 40 rows are copies of two images
    uncertainty = np.repeat(np.linspace(0.9, 0.1, 8, dtype=np.float32), 20)
    chosen = uncertain_clusters(uncertainty, copied, NONE, 4, rng())
    assert chosen.tolist() == [0, 20, 40, 41]


@pytest.mark.usefixtures("small_limits")
def test_k_center_finds_the_only_image_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "GREEDY_MAX", 8)
    points, of = shuffled_groups((150, 150, 1))
    asked = points[of != 2][:20]
    [chosen] = k_center(InPieces(points), asked, 1)
    assert of[chosen] == 2


@pytest.mark.usefixtures("small_limits")
def test_badge_chooses_unsure_images_of_a_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "GREEDY_MAX", 40)
    points, _ = shuffled_groups((100, 100))
    probs = np.repeat(np.array([[1, 0], [0.5, 0.5]], np.float32), 100, axis=0)
    n_chosen = np.zeros(200)
    for seed in range(100):
        n_chosen[badge(probs, InPieces(points), 5, np.random.default_rng(seed))] += 1
    assert (n_chosen[:100] == 0).all()
    assert (n_chosen[100:] > 0).sum() > 90  # with 5 of 100 at a time, 99 are expected
    assert n_chosen.max() < 20  # 5 are expected; the same few would be chosen 100 times


def test_the_center_of_a_sorted_pool_is_estimated_from_all_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(directions, "GROUP_ROWS", 4)
    monkeypatch.setattr(directions, "CENTER_GROUPS", 10)
    rows = InPieces(np.arange(400, dtype=np.float32)[:, None])
    assert center_of(rows) == pytest.approx([199.5])  # of rows 0..3, 44..47, ..., 396..399
    assert rows.n_read == 40


def test_every_member_of_a_cluster_is_equally_likely_to_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clusters, "MEMBERS_MAX", 10)
    rows = np.arange(1000, dtype=np.float32)[:, None]
    of = np.arange(1000) % 2  # two clusters
    n_kept = np.zeros(1000)
    for seed in range(400):
        kept = clusters._Reservoirs(2, rows[:0], np.random.default_rng(seed))
        for first in range(0, 1000, 100):
            kept.add(of[first : first + 100], rows[first : first + 100], first)
        for cluster in (0, 1):
            positions, members = kept.of(cluster)
            assert len(set(positions.tolist())) == 10
            assert (of[positions] == cluster).all()
            assert members[:, 0].tolist() == positions.tolist()
            n_kept[positions] += 1
    # Each row is kept in 10 of 500 cases, so 400 tries keep 800 rows of each hundred.
    by_hundred = n_kept.reshape(10, 100).sum(axis=1)
    assert by_hundred == pytest.approx(np.full(10, 800), abs=4 * np.sqrt(800))


def test_the_highest_scores_come_first_and_ties_stay_in_order() -> None:
    scores = np.array([0.5, 0.9, 0.1, 0.5, 0.5], np.float32)
    assert _highest(scores, 3).tolist() == [1, 0, 3]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_the_highest_scores_are_the_first_of_all_sorted(values: list[int], count: int) -> None:
    scores = np.array(values, np.float32)
    assert _highest(scores, count).tolist() == np.argsort(-scores, kind="stable")[:count].tolist()
