"""Compute one body's embeddings of a pool's images, each only once, and read them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from backend.base.arrays import EmbeddingRows, Embeddings
from backend.base.progress import Progress
from backend.images.framing import View
from backend.images.image_reader import find_locations, find_reader
from backend.images.listing import summarize
from backend.images.pool import Pool
from backend.images.splits import Split
from backend.network.inference import check_finite, load_network, predict
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.rounds.loop import Loop
from backend.store.model_outputs import embeddings_store
from backend.store.place import Place
from backend.store.row_store import SHARD_ROWS, RowStore, Shard
from backend.store.tensor_file import State

log = logging.getLogger(__name__)

CLUSTER_MIN = 2048  # images; fewer are embedded sooner here than a cluster could begin


@dataclass(frozen=True)
class PoolEmbeddings:
    """One body's embeddings of the images in a pool, (images, width) for each split."""

    pool: EmbeddingRows  # rows match the pool's known_ids
    validation: Embeddings  # of the images in `held_out`
    test: Embeddings


def held_out(pool: Pool) -> Split:
    """Return the images that every version is measured on.

    If annotators label a sample, returns the whole sample. In this case, `pool.validation` contains
    only the images that are already labeled.
    """
    return pool.sample if pool.sample.image_ids else pool.validation


@dataclass(frozen=True)
class BodyEmbeddings:
    """One body's embeddings, as a version with this view sees the images."""

    loop: Loop
    key: str  # of the body
    view: View
    folder: Place  # contains the embeddings of several bodies
    load_state: Callable[[], State]  # returns a full network with this body

    @property
    def exists(self) -> bool:
        """Return whether any rows are kept."""
        return self._store.open() is not None

    def missing(self, image_ids: Sequence[str]) -> Sequence[str]:
        """Return which of these images have no row yet."""
        return self._store.missing(image_ids)

    def of(self, image_ids: Sequence[str], phase: str, progress: Progress) -> EmbeddingRows:
        """Return the rows of some images in one split; compute those that are missing."""
        if not image_ids:
            return np.empty((0, self._store.width), np.float16)

        def compute(missing: Sequence[str]) -> Sequence[Shard]:
            return self._embed(missing, phase, progress)

        return self._store.complete(image_ids, compute)

    def of_held_out(self, progress: Progress) -> tuple[Embeddings, Embeddings]:
        """Return the rows of the validation images in `held_out`, and of the test images."""
        pool = self.loop.pool
        validation = self.of(held_out(pool).image_ids, "validating", progress)
        return validation[:], self.of(pool.test.image_ids, "testing", progress)[:]

    def of_all(self, progress: Progress) -> PoolEmbeddings:
        """Return the rows of all images in the pool and in its held-out splits."""
        of_pool = self.of(self.loop.pool.known_ids, "embedding the pool", progress)
        return PoolEmbeddings(of_pool, *self.of_held_out(progress))

    @cached_property
    def _store(self) -> RowStore[np.float16]:
        width = resnet18(len(self.loop.pool.classes))[HEAD_TENSORS[0]].shape[1]
        return embeddings_store(self.folder, self.key, self.view, self.loop.pool.name, width)

    def _embed(self, image_ids: Sequence[str], phase: str, progress: Progress) -> list[Shard]:
        """Write the rows of images in shards, here or on the cluster."""
        if self.loop.settings.scale == "local" or len(image_ids) < CLUSTER_MIN:
            return self._embed_here(image_ids, phase, progress)
        shards, left = self._embed_on_cluster(image_ids, phase, progress)
        return [*shards, *self._embed_here(left, phase, progress)]

    def _embed_here(self, image_ids: Sequence[str], phase: str, progress: Progress) -> list[Shard]:
        """Write the rows of images in shards; the network runs while files are written."""
        if not image_ids:
            return []
        images = self.loop.pool.images_of(image_ids, self.view, progress)
        model, total = load_network(self.load_state(), self.loop.device), len(image_ids)
        with ThreadPoolExecutor(1) as writer:
            written = []
            for at in range(0, total, SHARD_ROWS):
                part = slice(at, at + SHARD_ROWS)
                embeddings = predict(
                    model,
                    images[part],
                    image_size=self.view.image_size,
                    device=self.loop.device,
                    on_batch=partial(_report, progress, phase, at, total),
                ).embeddings
                check_finite(embeddings)
                written.append(writer.submit(self._store.write, image_ids[part], embeddings))
            return [shard.result() for shard in written]

    def _embed_on_cluster(
        self, image_ids: Sequence[str], phase: str, progress: Progress
    ) -> tuple[list[Shard], Sequence[str]]:
        """Have the cluster write the rows of images in shards.

        Also returns the images that only this process can read: those of Label Studio's tasks, and
        those that the source has lost.
        """
        from backend.scale.embedding import embed  # imports Ray

        settings, pool = self.loop.settings, self.loop.pool
        reader = find_reader(pool, self.view, settings.image_hosts)
        if reader is None:
            return [], image_ids
        found = zip(image_ids, find_locations(pool, image_ids), strict=True)
        locations = {image_id: at for image_id, at in found if at is not None}
        if not locations:
            return [], image_ids
        shards, failed = embed(
            settings.ray_address,
            settings.device,
            self._store,
            self.load_state(),
            reader,
            self.view.image_size,
            locations,
            lambda done: progress(phase, done, len(image_ids)),
        )
        if failed:
            log.warning("the cluster left out %s", summarize(failed, len(locations) - len(failed)))
        return shards, [i for i in image_ids if i not in locations or i in failed]


def _report(progress: Progress, phase: str, before: int, total: int, done: int, _: int) -> None:
    progress(phase, before + done, total)
