"""Serve batches of unlabeled images: two random views of each image, or the plain images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.base.arrays import Images
from backend.network.augmentation import augment, draw_crops, draw_strong_jitters
from backend.network.inference import normalizer, on_device, resize, resize_bytes
from backend.network.team import Team

RESIDENT_SHARE = 0.5  # of a GPU's free memory that the images may fill
LOADED_AT_ONCE = 1024
# What a random number is drawn for.
ORDER, VIEWS, PLAIN = range(3)


class UnlabeledViews:
    """The batches that a body adapts to; each depends only on the seed and on its number.

    A GPU keeps the images in its memory if they fit. Otherwise each batch is read from `images`.
    """

    def __init__(
        self,
        images: Images,
        *,
        image_size: int,
        batch_size: int,
        min_area: float,
        color_jitter: float,
        share_unchanged: float,
        share_grey: float,
        may_flip: bool,
        seed: int,
        device: torch.device,
        team: Team,
    ) -> None:
        self.batch_size = min(batch_size, len(images))
        self._part = team.part(self.batch_size)
        self._images, self._image_size, self._device, self._seed = images, image_size, device, seed
        self._min_area, self._may_flip = min_area, may_flip
        self._jitter = (color_jitter, share_unchanged, share_grey)
        self._normalize = normalizer(device)
        self._orders: dict[int, NDArray[np.int64]] = {}  # pass over the images -> their order
        self._resident = self._load_all() if self._fits() else None

    def pair(self, step: int) -> tuple[Tensor, Tensor]:
        """Return two random views of each image in this process's part of the batch of a step."""
        rng = self._rng(VIEWS, step)
        n = 2 * self.batch_size
        views = self._own(draw_crops(n, (self._min_area, 1.0), self._may_flip, rng))
        jitters = self._own(draw_strong_jitters(n, *self._jitter, rng))
        stored = self._normalize(self._load(self._rows(step)[self._part]))
        first, second = augment(
            stored.repeat(2, 1, 1, 1), self._move(views), self._move(jitters), self._image_size
        ).chunk(2)
        return first, second

    def plain(self, most: int) -> Iterator[Tensor]:
        """Yield batches of at most `most` random images, as inference sees them."""
        rows = torch.randperm(len(self._images), generator=self._rng(PLAIN, 0)).numpy()[:most]
        for part in np.array_split(rows, math.ceil(len(rows) / self.batch_size)):
            yield resize(self._normalize(self._load(part)), self._image_size)

    def _own(self, drawn: Tensor) -> Tensor:
        """Return this process's part of what was drawn for the first and the second views."""
        return torch.cat([of_views[self._part] for of_views in drawn.chunk(2)])

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Return the rows of a batch, which may contain parts of two passes or more."""
        first, n = step * self.batch_size, len(self._images)
        passes = range(first // n, (first + self.batch_size - 1) // n + 1)
        known = self._orders
        self._orders = {p: known[p] if p in known else self._order(p) for p in passes}
        rows = np.concatenate(list(self._orders.values()))
        return rows[first - passes[0] * n :][: self.batch_size]

    def _order(self, number: int) -> NDArray[np.int64]:
        return torch.randperm(len(self._images), generator=self._rng(ORDER, number)).numpy()

    def _rng(self, purpose: int, number: int) -> torch.Generator:
        [seed] = np.random.SeedSequence((self._seed, purpose, number)).generate_state(1)
        return torch.Generator().manual_seed(int(seed))

    def _load(self, rows: NDArray[np.int64]) -> Tensor:
        if self._resident is None:
            return self._shrink(on_device(self._images[rows], self._device))
        return self._resident[self._move(torch.from_numpy(rows))]

    def _load_all(self) -> Tensor:
        n = len(self._images)
        parts = (self._images[at : at + LOADED_AT_ONCE] for at in range(0, n, LOADED_AT_ONCE))
        return torch.cat([self._shrink(on_device(part, self._device)) for part in parts])

    def _fits(self) -> bool:
        if self._device.type != "cuda":
            return False
        n, height, width, channels = self._images.shape
        if max(height, width) > self._most_px:
            height = width = self._most_px
        free, _ = torch.cuda.mem_get_info(self._device)
        # Joining the parts needs the memory twice.
        return 2 * n * height * width * channels < RESIDENT_SHARE * free

    @property
    def _most_px(self) -> int:
        """Return the side to which larger images shrink: a crop of half a side keeps its detail."""
        return 2 * self._image_size

    def _shrink(self, stored: Tensor) -> Tensor:
        return (
            resize_bytes(stored, self._most_px) if max(stored.shape[2:]) > self._most_px else stored
        )

    def _move(self, drawn: Tensor) -> Tensor:
        """Copy to the device without waiting for the steps that are enqueued there."""
        if self._device.type == "cuda":
            drawn = drawn.pin_memory()
        return drawn.to(self._device, non_blocking=True)
