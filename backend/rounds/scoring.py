"""Compute and cache each version's probabilities."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np

from backend.asking.query import Candidates, needs_embeddings, needs_model
from backend.base.arrays import EmbeddingRows, Images, Probs, RowView
from backend.base.progress import Progress
from backend.base.row_blocks import is_large
from backend.base.strategy_names import ResolvedName
from backend.images.splits import Split
from backend.measures.calibration import rescale
from backend.network.head import Head
from backend.network.inference import load_network, predict
from backend.rounds.embeddings import embeddings_of, start_candidates, version_body
from backend.rounds.loop import Loop
from backend.store import model_outputs
from backend.store.model_outputs import SampleProbs
from backend.store.row_store import Shard
from backend.store.version_meta import Meta


def find_candidates(
    loop: Loop,
    version: Meta | None,
    strategy: ResolvedName,
    rows: Sequence[int],
    asked: Set[str],
    progress: Progress,
) -> Candidates:
    """Return the data that a query strategy needs about the pool's images in `rows`."""
    embeddings: EmbeddingRows | None = None
    of_asked: EmbeddingRows | None = None
    if needs_embeddings(strategy):
        if version is not None:
            whole = embeddings_of(loop, version, progress)[1].pool
            known = enumerate(loop.pool.known_ids)
            asked_rows = [row for row, image_id in known if image_id in asked]
            embeddings, of_asked = _rows_of(whole, rows), _rows_of(whole, asked_rows)
        elif loop.has_pretrained_body and not needs_model(strategy):
            rows, embeddings, of_asked = start_candidates(loop, rows, asked, progress)
    return Candidates(
        image_ids=[loop.pool.image_ids[row] for row in rows],
        probs=None if version is None else pool_probs(loop, version, progress)[rows],
        embeddings=embeddings,
        asked=of_asked,
    )


def pool_probs(loop: Loop, meta: Meta, progress: Progress) -> Probs:
    """Return a version's calibrated probabilities for the pool; each image is scored only once.

    The columns are the loop's classes. Raises NoModelError if a probability is not finite.
    """
    wanted, store = loop.pool.image_ids, model_outputs.pool_probs_store(loop.root, meta.version)

    def compute(missing: Sequence[str]) -> list[Shard]:
        embeddings = version_body(loop, meta).of(missing, "scoring the pool", progress)
        return store.write_all(missing, _head_probs(loop, meta, embeddings))

    return loop.classes.align(store.complete(wanted, compute)[:])


def score_sample(loop: Loop, meta: Meta, progress: Progress) -> SampleProbs:
    """Return a version's outputs for the validation sample; each image is scored only once.

    The columns are the version's classes. `measure_again` measures images that lack a label here.
    """
    kept = model_outputs.load_sample_probs(loop.root, meta.version)
    known = set(kept.image_ids) if kept else set()
    missing = tuple(i for i in loop.pool.sample.image_ids if i not in known)
    if kept and not missing:
        return kept
    probs = _calibrated_probs(loop, meta, missing, "validating", progress)
    sample = SampleProbs(missing, probs, np.full(len(missing), model_outputs.UNLABELED))
    if kept:  # also the rows of other images, because another process may have a larger sample
        sample = SampleProbs(
            kept.image_ids + missing,
            np.concatenate([kept.probs, probs]),
            np.concatenate([kept.labels, sample.labels]),
        )
    model_outputs.save_sample_probs(loop.root, meta.version, sample)
    return sample


def scored_part(loop: Loop) -> Loop:
    """Return the loop without new images that the version in service has not scored yet.

    The trainer will score those images. Images that have a task are not removed.
    """
    pool, version = loop.pool, loop.registry.current()
    if version is None or pool.source is None:
        return loop
    kept = model_outputs.load_pool_probs(loop.root, version.version)
    if kept is None:
        return loop
    asked = {pool.canonical(task.image_id) for task in loop.store.tasks()}
    new = {pool.image_ids[row] for row in np.flatnonzero(kept.find(pool.image_ids) < 0)} - asked
    image_ids, images = _without(new, pool.image_ids, pool.images)
    sample = pool.sample
    if (scored := model_outputs.load_sample_probs(loop.root, version.version)) is not None:
        new = set(sample.image_ids) - asked.union(scored.image_ids)
        sample = Split(*_without(new, sample.image_ids, sample.images))
    return replace(loop, pool=replace(pool, image_ids=image_ids, images=images, sample=sample))


def validation_probs(loop: Loop, meta: Meta) -> Probs:
    """Return a version's calibrated probabilities for the validation images."""
    validation = loop.pool.validation
    if loop.pool.sample.image_ids:
        sample = score_sample(loop, meta, lambda *_: None)
        row_of = {image_id: row for row, image_id in enumerate(sample.image_ids)}
        rows = [row_of[image_id] for image_id in validation.image_ids]
        return loop.classes.align(sample.probs[rows])
    probs = model_outputs.load_validation_probs(loop.root, meta.version, validation.labels)
    if probs is None:  # the version used another split, or is older than this cache
        phase = "validating the version in service"
        probs = _calibrated_probs(loop, meta, validation.image_ids, phase, lambda *_: None)
    return loop.classes.align(probs)


def _rows_of(whole: EmbeddingRows, rows: Sequence[int]) -> EmbeddingRows:
    """Return some rows; if there are many, they are read only when they are used."""
    positions = np.array(rows, dtype=np.int64)
    return RowView(whole, positions) if is_large(positions) else whole[positions]


def _without(
    new: Set[str], image_ids: tuple[str, ...], images: Images
) -> tuple[tuple[str, ...], Images]:
    """Return the other images, in their order."""
    rows = [row for row, image_id in enumerate(image_ids) if image_id not in new]
    if len(rows) == len(image_ids):
        return image_ids, images
    part = RowView(images, np.array(rows, dtype=np.int64))
    return tuple(image_ids[row] for row in rows), part


def _calibrated_probs(
    loop: Loop, meta: Meta, image_ids: Sequence[str], phase: str, progress: Progress
) -> Probs:
    """Score images with a saved version.

    If its body's embeddings of them are not kept, as for old versions, they are not kept now.
    """
    body = version_body(loop, meta)
    if not body.missing(image_ids):
        return _head_probs(loop, meta, body.of(image_ids, phase, progress))
    images = loop.pool.images_of(image_ids, meta.view, progress)
    probs = predict(
        load_network(loop.registry.load_state(meta.version), loop.device),
        images,
        image_size=meta.image_size,
        device=loop.device,
        on_batch=lambda done, total: progress(phase, done, total),
    ).probs
    return rescale(_finite(meta, probs), meta.temperature)


def _head_probs(loop: Loop, meta: Meta, embeddings: EmbeddingRows) -> Probs:
    """Return the calibrated probabilities that a version's last layer gives to embeddings."""
    head = Head.of(loop.registry.load_own_state(meta.version))
    return rescale(_finite(meta, head.probs(embeddings)), meta.temperature)


def _finite(meta: Meta, probs: Probs) -> Probs:
    if not np.isfinite(probs).all():
        raise model_outputs.nan_error(meta.version)
    return probs
