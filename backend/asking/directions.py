"""Compare images by the directions in which their embeddings lie, seen from the pool's mean.

Importing scikit-learn takes a second, so only the functions that use scikit-learn import it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import EmbeddingRows, Positions
from backend.base.row_blocks import GROUP_ROWS, is_large, take

Directions = NDArray[np.float32]  # centered embeddings, scaled to unit length

CENTER_GROUPS = 256  # of GROUP_ROWS rows; a twentieth of five million rows


class DirectionRows:
    """The directions of embeddings that stay in files. Rows are read only when they are used."""

    def __init__(self, embeddings: EmbeddingRows, center: NDArray[np.float32]) -> None:
        self._embeddings, self._center = embeddings, center

    def __len__(self) -> int:
        return len(self._embeddings)

    def __getitem__(self, rows: slice | Positions) -> Directions:
        found = self._embeddings[rows] if isinstance(rows, slice) else take(self._embeddings, rows)
        return to_directions(found, self._center)


def directions_of(
    embeddings: EmbeddingRows, asked: EmbeddingRows
) -> tuple[Directions | DirectionRows, Directions]:
    """Return the directions of both; those of a large pool stay in files.

    Those of the queried images are always in memory, with 2 kB per image.
    """
    if is_large(embeddings):
        center = center_of(embeddings)
        return DirectionRows(embeddings, center), to_directions(asked[:], center)
    return unit_directions(embeddings[:], asked[:])


def center_of(embeddings: EmbeddingRows) -> NDArray[np.float32]:
    """Return the mean of a large pool's embeddings, estimated from CENTER_GROUPS groups of rows.

    A batch is chosen while annotators wait, and reading everything would cost most of that time.
    The groups are spread evenly, so that a pool that is sorted by class is represented as well.
    """
    n_groups = -(-len(embeddings) // GROUP_ROWS)
    firsts = GROUP_ROWS * np.unique(np.linspace(0, n_groups - 1, CENTER_GROUPS).astype(np.int64))
    groups = [embeddings[first : first + GROUP_ROWS] for first in firsts.tolist()]
    total = sum(group.sum(axis=0, dtype=np.float64) for group in groups)
    return np.asarray(total / sum(map(len, groups)), np.float32)


def unit_directions(
    embeddings: NDArray[np.floating[Any]], asked: NDArray[np.floating[Any]]
) -> tuple[Directions, Directions]:
    """Center both arrays on the mean of `embeddings`, and scale each row to length 1."""
    center = embeddings.mean(axis=0, dtype=np.float32)
    return to_directions(embeddings, center), to_directions(asked, center)


def to_directions(embeddings: NDArray[np.floating[Any]], center: NDArray[np.float32]) -> Directions:
    """Center embeddings, and scale each row to length 1."""
    directions = embeddings.astype(np.float32)
    directions -= center
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.maximum(length, 1e-4)
    # Rounding leaves tiny differences between identical embeddings, which are not real directions.
    directions[length[:, 0] <= 1e-4] = 0
    return directions


def distance_to_nearest(directions: Directions, others: Directions) -> NDArray[np.float32]:
    """Return each row's distance to the nearest row of `others`, or infinity if there is none."""
    if not len(others):
        return np.full(len(directions), np.inf, np.float32)
    from sklearn.metrics import pairwise_distances_argmin_min

    return pairwise_distances_argmin_min(directions, others)[1]
