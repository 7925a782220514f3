"""Compute and cache each version's probabilities."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TypeVar

import numpy as np

from backend.asking.query import Candidates, needs_embeddings, needs_model
from backend.base.arrays import Embeddings, Images, Probs, RowView
from backend.base.progress import Progress
from backend.base.strategy_names import ResolvedName
from backend.images.splits import Split
from backend.measures.calibration import rescale
from backend.network.head import Head
from backend.rounds.embeddings import (
    complete,
    embeddings_of,
    kept_embeddings,
    score,
    select,
    start_candidates,
)
from backend.rounds.loop import Loop
from backend.store import model_outputs
from backend.store.model_outputs import SampleProbs
from backend.store.version_meta import Meta

Rows = TypeVar("Rows", Probs, Embeddings)


def find_candidates(
    loop: Loop,
    version: Meta | None,
    strategy: ResolvedName,
    rows: Sequence[int],
    asked: Set[str],
    progress: Progress,
) -> Candidates:
    """Return the data that a query strategy needs about the pool's images in `rows`."""
    embeddings: Embeddings | None = None
    of_asked: Embeddings | None = None
    if needs_embeddings(strategy):
        if version is not None:
            whole = embeddings_of(loop, version, progress)[1].pool
            known = enumerate(loop.pool.known_ids)
            asked_rows = [row for row, image_id in known if image_id in asked]
            embeddings, of_asked = whole[rows], whole[asked_rows]
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
    wanted = loop.pool.image_ids

    def compute(image_ids: Sequence[str]) -> Probs:
        return _calibrated_probs(loop, meta, image_ids, "scoring the pool", progress)

    kept = model_outputs.load_pool_probs(loop.root, meta.version)
    whole = complete(kept, wanted, compute)
    if whole is not kept:
        model_outputs.save_pool_probs(loop.root, meta.version, *whole)
    return loop.classes.align(select(whole, wanted))


def score_sample(loop: Loop, meta: Meta, progress: Progress) -> SampleProbs:
    """Return a version's outputs for the validation sample; each image is scored only once.

    The columns are the version's classes. `measure_again` measures images that lack a label here.
    """

    def compute(image_ids: Sequence[str]) -> Probs:
        return _calibrated_probs(loop, meta, image_ids, "validating", progress)

    kept = model_outputs.load_sample_probs(loop.root, meta.version)
    before = (kept.image_ids, kept.probs) if kept else None
    whole = complete(before, loop.pool.sample.image_ids, compute)
    if kept is not None and whole is before:
        return kept
    labels = np.full(len(whole[0]), model_outputs.UNLABELED)
    if kept is not None:
        labels[: len(kept.labels)] = kept.labels
    sample = SampleProbs(*whole, labels)
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
    image_ids, images = _part_of(pool.image_ids, pool.images, asked.union(kept[0]))
    sample = pool.sample
    if (scored := model_outputs.load_sample_probs(loop.root, version.version)) is not None:
        known = asked.union(scored.image_ids)
        sample = Split(*_part_of(sample.image_ids, sample.images, known))
    return replace(loop, pool=replace(pool, image_ids=image_ids, images=images, sample=sample))


def validation_probs(loop: Loop, meta: Meta) -> Probs:
    """Return a version's calibrated probabilities for the validation images."""
    validation = loop.pool.validation
    if loop.pool.sample.image_ids:
        sample = score_sample(loop, meta, lambda *_: None)
        return loop.classes.align(select((sample.image_ids, sample.probs), validation.image_ids))
    probs = model_outputs.load_validation_probs(loop.root, meta.version, validation.labels)
    if probs is None:  # the version used another split, or is older than this cache
        phase = "validating the version in service"
        probs = _calibrated_probs(loop, meta, validation.image_ids, phase, lambda *_: None)
    return loop.classes.align(probs)


def _part_of(
    image_ids: tuple[str, ...], images: Images, known: Set[str]
) -> tuple[tuple[str, ...], Images]:
    """Return those images that are known, in their order."""
    rows = [row for row, image_id in enumerate(image_ids) if image_id in known]
    if len(rows) == len(image_ids):
        return image_ids, images
    part = RowView(images, np.array(rows, dtype=np.int64))
    return tuple(image_ids[row] for row in rows), part


def _predict_probs(loop: Loop, meta: Meta, images: Images, phase: str, progress: Progress) -> Probs:
    """Run a saved version on images. Raises NoModelError if its probabilities are not finite."""
    state = loop.registry.load_state(meta.version)
    return _finite(meta, score(loop, state, meta.view, images, phase, progress).probs)


def _calibrated_probs(
    loop: Loop, meta: Meta, image_ids: Sequence[str], phase: str, progress: Progress
) -> Probs:
    """Score images with a saved version, from its body's embeddings if they are kept."""
    if (embeddings := kept_embeddings(loop, meta, image_ids)) is not None:
        state = loop.registry.load_own_state(meta.version)
        probs = _finite(meta, Head.of(state).probs(embeddings))
    else:
        images = loop.pool.images_of(image_ids, meta.view, progress)
        probs = _predict_probs(loop, meta, images, phase, progress)
    return rescale(probs, meta.temperature)


def _finite(meta: Meta, probs: Probs) -> Probs:
    if not np.isfinite(probs).all():
        raise model_outputs.nan_error(meta.version)
    return probs
