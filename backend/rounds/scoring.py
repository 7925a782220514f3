"""Compute and cache each version's probabilities and each body's embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from backend.asking.query import Candidates, needs_embeddings, needs_model
from backend.base.arrays import Embeddings, Images, ImageView, Probs
from backend.base.errors import TrainingError
from backend.base.progress import Progress
from backend.base.strategy_names import ResolvedName
from backend.images.framing import View
from backend.images.pool import Pool
from backend.images.splits import Split
from backend.measures.calibration import rescale
from backend.network import resnet
from backend.network.head import Head
from backend.network.inference import Outputs, load_model, predict
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.rounds.loop import Loop
from backend.store import model_outputs
from backend.store.model_outputs import SampleProbs
from backend.store.tensor_file import State, body_key
from backend.store.version_meta import Meta
from backend.store.weights import find_weights

Rows = TypeVar("Rows", Probs, Embeddings)


def held_out(pool: Pool) -> Split:
    """Return the images that every version is measured on.

    If annotators label a sample, returns the whole sample. In this case, `pool.validation` contains
    only the images that are already labeled.
    """
    return pool.sample if pool.sample.image_ids else pool.validation


def find_candidates(
    loop: Loop,
    version: Meta | None,
    strategy: ResolvedName,
    rows: Sequence[int],
    asked: Set[str],
    progress: Progress,
) -> Candidates:
    """Return the data that a query strategy needs about the pool's images in `rows`."""
    embeddings = None
    if needs_embeddings(strategy):
        if version is not None:
            embeddings = embeddings_of(loop, version, progress)[1].pool
        elif loop.has_pretrained_body and not needs_model(strategy):
            embeddings = pretrained_body(loop, progress)[1].pool
    asked_rows = [row for row, image_id in enumerate(loop.pool.known_ids) if image_id in asked]
    return Candidates(
        image_ids=[loop.pool.image_ids[row] for row in rows],
        probs=None if version is None else pool_probs(loop, version, progress)[rows],
        embeddings=None if embeddings is None else embeddings[rows],
        asked=None if embeddings is None else embeddings[asked_rows],
    )


@dataclass(frozen=True)
class PoolEmbeddings:
    """One body's embeddings of the images in a pool, (images, width) for each split."""

    pool: Embeddings  # rows match the pool's known_ids
    validation: Embeddings  # of the images in `held_out`
    test: Embeddings


def pool_probs(loop: Loop, meta: Meta, progress: Progress) -> Probs:
    """Return a version's calibrated probabilities for the pool; each image is scored only once.

    The columns are the loop's classes. Raises NoModelError if a probability is not finite.
    """
    wanted = loop.pool.image_ids

    def compute(image_ids: Sequence[str]) -> Probs:
        return _calibrated_probs(loop, meta, image_ids, "scoring the pool", progress)

    kept = model_outputs.load_pool_probs(loop.root, meta.version)
    whole = _complete(kept, wanted, compute)
    if whole is not kept:
        model_outputs.save_pool_probs(loop.root, meta.version, *whole)
    return loop.classes.align(_select(whole, wanted))


def score_sample(loop: Loop, meta: Meta, progress: Progress) -> SampleProbs:
    """Return a version's outputs for the validation sample; each image is scored only once.

    The columns are the version's classes. `measure_again` measures images that lack a label here.
    """

    def compute(image_ids: Sequence[str]) -> Probs:
        return _calibrated_probs(loop, meta, image_ids, "validating", progress)

    kept = model_outputs.load_sample_probs(loop.root, meta.version)
    before = (kept.image_ids, kept.probs) if kept else None
    whole = _complete(before, loop.pool.sample.image_ids, compute)
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
        return loop.classes.align(_select((sample.image_ids, sample.probs), validation.image_ids))
    probs = model_outputs.load_validation_probs(loop.root, meta.version, validation.labels)
    if probs is None:  # the version used another split, or is older than this cache
        phase = "validating the version in service"
        probs = _calibrated_probs(loop, meta, validation.image_ids, phase, lambda *_: None)
    return loop.classes.align(probs)


def embeddings_of(loop: Loop, meta: Meta, progress: Progress) -> tuple[str, PoolEmbeddings]:
    """Return a version's body key, and its embeddings of all images.

    The embedding of an image is computed only once.
    """
    kept = _load(loop, meta.body_key, meta.view) if meta.body_key else None
    wanted = _split_ids(loop.pool)
    if kept is not None and set(kept[0]) >= set(wanted):
        return meta.body_key, _split(loop.pool, _select(kept, wanted))
    state = loop.registry.load_state(meta.body)
    key = body_key(state)
    return key, _load_or_embed(loop, state, key, meta.view, loop.own_embeddings, progress)


def pretrained_body(loop: Loop, progress: Progress) -> tuple[State, PoolEmbeddings]:
    """Return a full network with the pre-trained weights, and its embeddings of all images.

    All projects share these embeddings.
    """
    state = _pretrained(loop, progress)
    folder = loop.shared_embeddings
    return state, _load_or_embed(loop, state, body_key(state), loop.view, folder, progress)


def pretrained_embeddings(loop: Loop, image_ids: Sequence[str], progress: Progress) -> Embeddings:
    """Return the pre-trained body's embeddings of some known images, (images, width).

    Each image is embedded only once; all projects share these embeddings.
    """
    state = _pretrained(loop, progress)
    kept = _load(loop, body_key(state), loop.view)

    def compute(missing: Sequence[str]) -> Embeddings:
        images = loop.pool.images_of(missing, progress=progress)
        return score(loop, state, loop.view, images, "embedding", progress).embeddings

    whole = _complete(kept, image_ids, compute)
    if whole is not kept:
        path = model_outputs.embeddings_path(
            loop.shared_embeddings, body_key(state), loop.view, loop.pool.name
        )
        model_outputs.save_embeddings(path, *whole)
    return _select(whole, image_ids)


def save_embeddings(
    loop: Loop, folder: Path, key: str, view: View, embeddings: PoolEmbeddings
) -> None:
    """Save a body's embeddings of all images."""
    path = model_outputs.embeddings_path(folder, key, view, loop.pool.name)
    rows = np.concatenate([embeddings.pool, embeddings.validation, embeddings.test])
    model_outputs.save_embeddings(path, _split_ids(loop.pool), rows)


def score(
    loop: Loop,
    state: State,
    view: View,
    images: Images,
    phase: str,
    progress: Progress,
) -> Outputs:
    """Run a network on images, and return its outputs."""
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    return predict(
        load_model(tensors, len(state[HEAD_TENSORS[1]]), loop.device),
        images,
        image_size=view.image_size,
        device=loop.device,
        on_batch=lambda done, total: progress(phase, done, total),
    )


def _pretrained(loop: Loop, progress: Progress) -> State:
    """Return the pre-trained weights, with a head for the pool's classes."""
    start = find_weights(loop.weights, loop.settings.data_dir, progress=progress).state
    tensors = resnet.build(len(loop.pool.classes), start, seed=loop.seed).state_dict()
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _load_or_embed(
    loop: Loop, state: State, key: str, view: View, folder: Path, progress: Progress
) -> PoolEmbeddings:
    """Load a body's embeddings; compute and store the embeddings of new images."""
    pool = loop.pool

    def compute(image_ids: Sequence[str]) -> Embeddings:
        missing = set(image_ids)
        embedded: list[Embeddings] = []
        for ids in (pool.known_ids, held_out(pool).image_ids, pool.test.image_ids):
            images = pool.images_of([i for i in ids if i in missing], view, progress)
            outputs = score(loop, state, view, images, "embedding the pool", progress)
            embedded.append(outputs.embeddings)
        if not all(np.isfinite(rows).all() for rows in embedded):
            raise TrainingError(
                "the embeddings of the pool contain NaN or infinite numbers: promote another "
                "version, or check the weights that WEIGHTS names"
            )
        return np.concatenate(embedded)  # type: ignore[return-value]  # all of one type

    wanted = _split_ids(pool)
    kept = _load(loop, key, view)
    whole = _complete(kept, wanted, compute)
    if whole is not kept:
        path = model_outputs.embeddings_path(folder, key, view, pool.name)
        model_outputs.save_embeddings(path, *whole)
    return _split(pool, _select(whole, wanted))


def _load(loop: Loop, key: str, view: View) -> tuple[tuple[str, ...], Embeddings] | None:
    """Load a body's saved embeddings if they have the width of our network."""
    width = resnet18(len(loop.pool.classes))[HEAD_TENSORS[0]].shape[1]
    for folder in (loop.own_embeddings, loop.shared_embeddings):
        path = model_outputs.embeddings_path(folder, key, view, loop.pool.name)
        if (kept := model_outputs.load_embeddings(path, width)) is not None:
            return kept
    return None


def _kept_embeddings(loop: Loop, meta: Meta, image_ids: Sequence[str]) -> Embeddings | None:
    """Load the version's embeddings of these images, or return None if any is missing."""
    kept = _load(loop, meta.body_key, meta.view) if meta.body_key else None
    return _select(kept, image_ids) if kept and set(kept[0]) >= set(image_ids) else None


def _complete(
    kept: tuple[tuple[str, ...], Rows] | None,
    wanted: Sequence[str],
    compute: Callable[[Sequence[str]], Rows],
) -> tuple[tuple[str, ...], Rows]:
    """Return the saved rows, plus newly computed rows for wanted images that have no saved row.

    The result includes the saved rows of all other images, because another process may have opened
    a larger pool.
    """
    if kept is None:
        return tuple(wanted), compute(wanted)
    image_ids, rows = kept
    known = set(image_ids)
    missing = [image_id for image_id in wanted if image_id not in known]
    if not missing:
        return kept
    rows = np.concatenate([rows, compute(missing)])
    return image_ids + tuple(missing), rows


def _select(kept: tuple[tuple[str, ...], Rows], wanted: Sequence[str]) -> Rows:
    """Return the rows of the wanted images, in the order of those images."""
    if kept[0] == wanted:
        return kept[1]
    row_of = {image_id: row for row, image_id in enumerate(kept[0])}
    return kept[1][[row_of[image_id] for image_id in wanted]]


def _part_of(
    image_ids: tuple[str, ...], images: Images, known: Set[str]
) -> tuple[tuple[str, ...], Images]:
    """Return those images that are known, in their order."""
    rows = [row for row, image_id in enumerate(image_ids) if image_id in known]
    if len(rows) == len(image_ids):
        return image_ids, images
    part = ImageView(images, np.array(rows, dtype=np.int64))
    return tuple(image_ids[row] for row in rows), part


def _split_ids(pool: Pool) -> tuple[str, ...]:
    return pool.known_ids + held_out(pool).image_ids + pool.test.image_ids


def _split(pool: Pool, rows: Embeddings) -> PoolEmbeddings:
    n_known, n_validation = len(pool.known_ids), len(held_out(pool).image_ids)
    n_not_test = n_known + n_validation
    return PoolEmbeddings(rows[:n_known], rows[n_known:n_not_test], rows[n_not_test:])


def _predict_probs(loop: Loop, meta: Meta, images: Images, phase: str, progress: Progress) -> Probs:
    """Run a saved version on images. Raises NoModelError if its probabilities are not finite."""
    state = loop.registry.load_state(meta.version)
    return _finite(meta, score(loop, state, meta.view, images, phase, progress).probs)


def _calibrated_probs(
    loop: Loop, meta: Meta, image_ids: Sequence[str], phase: str, progress: Progress
) -> Probs:
    """Score images with a saved version, from its body's embeddings if they are kept."""
    if (embeddings := _kept_embeddings(loop, meta, image_ids)) is not None:
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
