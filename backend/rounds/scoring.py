"""Compute and cache each version's probabilities and each body's embeddings."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import torch

from backend.asking.query import Candidates, needs_embeddings, needs_model
from backend.base.arrays import Embeddings, Labels, Probs
from backend.base.errors import TrainingError
from backend.base.progress import Progress
from backend.base.strategy_names import ResolvedName
from backend.measures.calibration import rescale
from backend.network import resnet
from backend.network.inference import Images, Outputs, load_model, predict
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.rounds.loop import Loop
from backend.store import model_outputs
from backend.store.model_outputs import PoolEmbeddings
from backend.store.tensor_file import State, body_key
from backend.store.version_meta import Meta
from backend.store.weights import find_weights


def find_candidates(
    loop: Loop,
    version: Meta | None,
    strategy: ResolvedName,
    rows: Sequence[int],
    asked: Set[str],
    progress: Progress,
) -> Candidates:
    """Return what a query strategy needs for the pool's images in `rows`."""
    embeddings = None
    if needs_embeddings(strategy):
        if version is not None:
            embeddings = embeddings_of(loop, version, progress)[1].pool
        elif loop.has_pretrained_body and not needs_model(strategy):
            embeddings = pretrained_body(loop, progress)[1].pool
    asked_rows = [row for row, image_id in enumerate(loop.pool.image_ids) if image_id in asked]
    return Candidates(
        image_ids=[loop.pool.image_ids[row] for row in rows],
        probs=None if version is None else pool_probs(loop, version, progress)[rows],
        embeddings=None if embeddings is None else embeddings[rows],
        asked=None if embeddings is None else embeddings[asked_rows],
    )


def pool_probs(loop: Loop, meta: Meta, progress: Progress) -> Probs:
    """Return a version's calibrated probabilities for the whole pool, computed at most once.

    Raises a NoModelError that names the version if its probabilities are not finite.
    """
    kept = model_outputs.load_pool_probs(loop.root, meta.version)
    if kept is not None and kept[0] == loop.pool.image_ids:
        return kept[1]
    raw = _predict_probs(loop, meta, loop.pool.images, "scoring the pool", progress)
    probs = rescale(raw, meta.temperature)
    model_outputs.save_pool_probs(loop.root, meta.version, loop.pool.image_ids, probs)
    return probs


def predicted_classes(loop: Loop, meta: Meta) -> Labels:
    """Return the class that a version predicts for each validation image."""
    validation = loop.pool.validation
    probs = model_outputs.load_validation_probs(loop.root, meta.version, validation.labels)
    if probs is None:  # the version used another split, or is older than this cache
        phase = "validating the version in service"
        probs = _predict_probs(loop, meta, validation.images, phase, lambda *_: None)
    return probs.argmax(axis=1)


def embeddings_of(loop: Loop, meta: Meta, progress: Progress) -> tuple[str, PoolEmbeddings]:
    """Return a version's body key, and its embeddings of all images, computed at most once."""
    if meta.body_key and (kept := _load(loop, meta.body_key, meta.image_size)) is not None:
        return meta.body_key, kept
    state = loop.registry.load_state(meta.body)
    key = body_key(state)
    return key, _load_or_embed(loop, state, key, meta.image_size, loop.own_embeddings, progress)


def pretrained_body(loop: Loop, progress: Progress) -> tuple[State, PoolEmbeddings]:
    """Return a full network with the pre-trained weights, and its embeddings of all images.

    All projects share these embeddings.
    """
    state = _pretrained(loop, progress)
    key, size = body_key(state), loop.recipe.image_size
    return state, _load_or_embed(loop, state, key, size, loop.shared_embeddings, progress)


def pretrained_embeddings(loop: Loop, image_ids: Sequence[str], progress: Progress) -> Embeddings:
    """Return the pre-trained body's embeddings of some pool images, (images, width)."""
    state, size = _pretrained(loop, progress), loop.recipe.image_size
    rows = loop.pool.positions(image_ids)
    if (kept := _load(loop, body_key(state), size)) is not None:
        return kept.pool[rows]
    return score(loop, state, size, loop.pool.images[rows], "embedding", progress).embeddings


def score(
    loop: Loop,
    state: State,
    image_size: int,
    images: Images,
    phase: str,
    progress: Progress,
) -> Outputs:
    """Run a network on images, and return its outputs."""
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    return predict(
        load_model(tensors, len(loop.pool.classes), loop.device),
        images,
        image_size=image_size,
        device=loop.device,
        on_batch=lambda done, total: progress(phase, done, total),
    )


def _pretrained(loop: Loop, progress: Progress) -> State:
    """Return the pre-trained weights, with a head for the pool's classes."""
    start = find_weights(loop.weights, loop.settings.data_dir, progress=progress).state
    tensors = resnet.build(len(loop.pool.classes), start, seed=loop.seed).state_dict()
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _load_or_embed(
    loop: Loop, state: State, key: str, image_size: int, folder: Path, progress: Progress
) -> PoolEmbeddings:
    if (kept := _load(loop, key, image_size)) is not None:
        return kept
    splits = (loop.pool.images, loop.pool.validation.images, loop.pool.test.images)
    phase = "embedding the pool"
    embeddings = [
        score(loop, state, image_size, images, phase, progress).embeddings for images in splits
    ]
    if not all(np.isfinite(rows).all() for rows in embeddings):
        raise TrainingError(
            "the embeddings of the pool contain NaN or infinite numbers: promote another version, "
            "or check the weights in WEIGHTS"
        )
    made = PoolEmbeddings(*embeddings)
    model_outputs.save_embeddings(folder, key, image_size, loop.pool.image_ids, made)
    return made


def _load(loop: Loop, key: str, image_size: int) -> PoolEmbeddings | None:
    """Load a body's embeddings, or return None unless they fit the pool and our network."""
    pool = loop.pool
    width = resnet18(len(pool.classes))[HEAD_TENSORS[0]].shape[1]
    lengths = (len(pool.image_ids), len(pool.validation.labels), len(pool.test.labels))
    for folder in (loop.own_embeddings, loop.shared_embeddings):
        kept = model_outputs.load_embeddings(folder, key, image_size, pool.image_ids)
        if kept and [rows.shape for rows in vars(kept).values()] == [(n, width) for n in lengths]:
            return kept
    return None


def _predict_probs(loop: Loop, meta: Meta, images: Images, phase: str, progress: Progress) -> Probs:
    """Run a saved version on images; NoModelError if its probabilities are not finite."""
    state = loop.registry.load_state(meta.version)
    probs = score(loop, state, meta.image_size, images, phase, progress).probs
    if not np.isfinite(probs).all():
        raise model_outputs.nan_error(meta.version)
    return probs
