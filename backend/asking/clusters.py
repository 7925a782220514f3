"""Group images by their embeddings, and find the most typical images of each group.

Importing scikit-learn takes a second, so only the functions that use scikit-learn import it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.asking.directions import (
    DirectionRows,
    Directions,
    center_of,
    to_directions,
    unit_directions,
)
from backend.base.arrays import EmbeddingRows, Positions, Scores
from backend.base.row_blocks import blocks, take

NEIGHBORS = 20
# In a large pool, k-means is trained on some of the rows, and an image's neighbors are sought among
# some of its cluster's images. With 500 clusters, 1,000 images of each take 512 MB.
SAMPLE_ROWS = 100_000
MEMBERS_MAX = 1000


@dataclass(frozen=True)
class Clusters:
    """Clusters of images that may be queried and of images already queried."""

    size: NDArray[np.int64]  # (clusters,), images of both kinds
    n_asked: NDArray[np.int64]  # (clusters,), images already queried
    members: Callable[[int], tuple[Positions, Directions]]  # images of a cluster to choose from

    def by_typicality(self, cluster: int) -> Positions:
        """Return a cluster's images to choose from, those with near neighbors first."""
        positions, directions = self.members(cluster)
        return positions[np.argsort(-_typicality(directions), kind="stable")]


def cluster_all(
    embeddings: NDArray[np.floating[Any]],
    asked: NDArray[np.floating[Any]],
    n_clusters: int,
    rng: np.random.Generator,
) -> Clusters:
    """Cluster all images by k-means, in memory."""
    directions = np.concatenate(unit_directions(embeddings, asked))
    clusters = _k_means(directions, n_clusters, rng).labels_.astype(np.int64)
    own, theirs = clusters[: len(embeddings)], clusters[len(embeddings) :]

    def members(cluster: int) -> tuple[Positions, Directions]:
        positions = np.flatnonzero(own == cluster)
        return positions, directions[positions]

    size = np.bincount(clusters, minlength=n_clusters)
    return Clusters(size, np.bincount(theirs, minlength=n_clusters), members)


def cluster_blocks(
    embeddings: EmbeddingRows, asked: EmbeddingRows, n_clusters: int, rng: np.random.Generator
) -> Clusters:
    """Cluster a large pool, reading it block by block.

    K-means is trained on SAMPLE_ROWS random rows. Then each image is assigned to its nearest
    center, and MEMBERS_MAX random images of each cluster are kept to choose from.
    """
    n_sampled = min(SAMPLE_ROWS, len(embeddings))
    sampled = np.sort(rng.choice(len(embeddings), n_sampled, replace=False, shuffle=False))
    center = center_of(embeddings)
    sample = to_directions(take(embeddings, sampled), center)
    centers = _k_means(sample, n_clusters, rng).cluster_centers_
    n_asked = np.zeros(n_clusters, np.int64)
    theirs = DirectionRows(asked, center)
    for block in blocks(asked):
        n_asked += np.bincount(_nearest(theirs[block], centers), minlength=n_clusters)
    kept = _Reservoirs(n_clusters, embeddings[:0], rng)
    for block in blocks(embeddings):
        rows = embeddings[block]
        kept.add(_nearest(to_directions(rows, center), centers), rows, block.start)

    def members(cluster: int) -> tuple[Positions, Directions]:
        positions, rows = kept.of(cluster)
        return positions, to_directions(rows, center)

    return Clusters(kept.n_seen + n_asked, n_asked, members)


class _Reservoirs:
    """Random members of each cluster, at most MEMBERS_MAX, drawn while all rows pass by.

    This is algorithm R of Vitter (1985), "Random sampling with a reservoir", for a block at a time.
    """

    def __init__(
        self, n_clusters: int, empty: NDArray[np.floating[Any]], rng: np.random.Generator
    ) -> None:
        self.n_seen = np.zeros(n_clusters, np.int64)
        self._positions = np.empty((n_clusters, MEMBERS_MAX), np.int64)
        self._rows = np.empty((n_clusters, MEMBERS_MAX, *empty.shape[1:]), empty.dtype)
        self._rng = rng

    def add(self, clusters: NDArray[np.int64], rows: NDArray[np.floating[Any]], first: int) -> None:
        """Let a block of rows pass by, given their clusters and the position of the first row."""
        order = np.argsort(clusters, kind="stable")
        grouped = clusters[order]
        nth = np.empty(len(rows), np.int64)  # of its cluster, from 0
        nth[order] = np.arange(len(rows)) - np.searchsorted(grouped, grouped)
        nth += self.n_seen[clusters]
        # The nth row takes the place of an earlier one with probability MEMBERS_MAX / (nth + 1).
        place = np.where(nth < MEMBERS_MAX, nth, self._rng.integers(nth + 1))
        kept = np.flatnonzero(place < MEMBERS_MAX)
        # If two rows of the block take the same place, the later one keeps it.
        self._positions[clusters[kept], place[kept]] = first + kept
        self._rows[clusters[kept], place[kept]] = rows[kept]
        self.n_seen += np.bincount(clusters, minlength=len(self.n_seen))

    def of(self, cluster: int) -> tuple[Positions, NDArray[np.floating[Any]]]:
        """Return the positions and the rows of a cluster's members, in the order of the rows."""
        n_kept = min(int(self.n_seen[cluster]), MEMBERS_MAX)
        order = np.argsort(self._positions[cluster, :n_kept])
        return self._positions[cluster, order], self._rows[cluster, order]


def _k_means(directions: Directions, n_clusters: int, rng: np.random.Generator) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(
        n_clusters, batch_size=4096, max_iter=10, n_init=1, random_state=int(rng.integers(2**31))
    ).fit(directions)


def _nearest(directions: Directions, centers: Directions) -> NDArray[np.int64]:
    """Return the nearest center of each row.

    The distances are squared and lack the same amount in each row, which does not change the
    nearest center. This takes half as long as scikit-learn, which computes distances in float64.
    """
    distances = directions @ (-2 * centers.T)
    distances += (centers**2).sum(axis=1)
    return distances.argmin(axis=1)


def _typicality(directions: Directions) -> Scores:
    """Return the inverse of each cluster member's mean distance to its nearest neighbors."""
    n_neighbors = min(NEIGHBORS, len(directions) - 1)
    if n_neighbors == 0:
        return np.zeros(1, np.float32)
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(directions)
    distances, _ = nearest.kneighbors()  # an image is not its own neighbor
    return np.float32(1) / (distances.mean(axis=1) + np.float32(1e-5))
