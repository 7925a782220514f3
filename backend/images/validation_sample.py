"""Draw the validation sample: a fixed random part of the pool that only annotators label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backend.base.project_settings import ValidatedBy
from backend.images.digest import digest


@dataclass(frozen=True)
class Validation:
    """The origin of a project's validation labels, and how many of them annotators give."""

    by: ValidatedBy = "known"
    n_labels: int = 0  # given by annotators
    exempt: frozenset[str] = frozenset()  # images that stay in the pool when the sample is drawn


KNOWN = Validation()


@dataclass(frozen=True)
class ValidationSample:
    """A random draw by hash: whether an image is in the sample depends on no other image.

    The threshold is fixed when the sample is drawn, so images that are added later can join the
    sample, and none leaves it.
    """

    seed: int
    below: str  # the largest hash in the sample

    def contains(self, image_id: str) -> bool:
        """Return whether the draw chooses this image."""
        return self._hash(image_id) <= self.below

    def choose(self, image_ids: Sequence[str]) -> list[str]:
        """Return the images that the draw chooses, in labeling order."""
        return self.order([image_id for image_id in image_ids if self.contains(image_id)])

    def order(self, image_ids: Sequence[str]) -> list[str]:
        """Return these images in labeling order."""
        return sorted(image_ids, key=self._hash)

    def _hash(self, image_id: str) -> str:
        return _hash(image_id, self.seed)


def draw_sample(image_ids: Sequence[str], seed: int, n_labels: int) -> ValidationSample | None:
    """Draw enough images for `n_labels` labels; return None if there are fewer than five images.

    Draws a third more images than labels, to replace images that annotators cannot classify, but at
    most a fifth of all images.
    """
    count = min(math.ceil(n_labels * 4 / 3), len(image_ids) // 5)
    if count < 1:
        return None
    hashes = sorted(_hash(image_id, seed) for image_id in image_ids)
    return ValidationSample(seed, hashes[count - 1])


def _hash(image_id: str, seed: int) -> str:
    return digest(f"validation-sample-{seed}:{image_id}")
