"""Describe the splits of a pool, and draw class-balanced ones of labeled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Images, Labels, RowView
from backend.images.digest import digest

VALIDATION_MAX = 2000


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Held-out images."""

    image_ids: tuple[str, ...]
    images: Images  # rows match image_ids

    def select(self, labels: Mapping[str, int]) -> LabeledSplit:
        """Return the images that have a label, by image id, in the order of this split."""
        rows = [row for row, image_id in enumerate(self.image_ids) if image_id in labels]
        image_ids = tuple(self.image_ids[row] for row in rows)
        return LabeledSplit(
            image_ids,
            RowView(self.images, np.array(rows, dtype=np.int64)),
            np.array([labels[image_id] for image_id in image_ids], dtype=np.int64),
        )


@dataclass(frozen=True, eq=False, repr=False)
class LabeledSplit(Split):
    """Held-out images with labels; empty if no labels are known."""

    labels: NDArray[np.int64]  # (images,), positions in the classes

    def relabel(self, targets: Labels) -> LabeledSplit:
        """Replace each label with its target, and leave out images whose target is negative."""
        labels = targets[self.labels]
        if np.array_equal(labels, self.labels):
            return self
        rows = np.flatnonzero(labels >= 0)
        image_ids = tuple(self.image_ids[row] for row in rows)
        return LabeledSplit(image_ids, RowView(self.images, rows), labels[rows])


NO_IMAGES = Split((), np.zeros((0, 1, 1, 3), np.uint8))


def draw_validation(image_ids: Sequence[str], labels: Labels, seed: int) -> Labels:
    """Return the positions of a class-balanced tenth of the images, at most VALIDATION_MAX."""
    count = min(VALIDATION_MAX, len(labels) // 10)
    return draw_balanced(image_ids, labels, count, f"validation-{seed}", max_share=0.5)


def draw_balanced(
    image_ids: Sequence[str], labels: Labels, count: int, salt: str, *, max_share: float = 1.0
) -> Labels:
    """Return the positions of `count` images, spread over the classes as equally as possible.

    At most `max_share` of each class is drawn. The images are drawn in the order of their hashed
    ids, so the draw is the same on every machine and hardly changes if images are added later.
    """
    draws = [digest(f"{salt}:{i}") for i in image_ids]
    shuffled = np.array(sorted(range(len(draws)), key=draws.__getitem__), dtype=np.int64)
    rank = np.zeros(len(shuffled), dtype=np.int64)  # among the images of the same class
    is_free = np.zeros(len(shuffled), dtype=bool)
    for label in np.unique(labels):
        same = np.flatnonzero(labels[shuffled] == label)
        rank[same] = np.arange(len(same))
        is_free[same] = rank[same] < int(max_share * len(same))
    return shuffled[is_free][np.argsort(rank[is_free], kind="stable")[:count]]
