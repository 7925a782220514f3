"""Compute and cache each body's embeddings of the images in the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from backend.base.arrays import Embeddings, Images, Probs
from backend.base.errors import TrainingError
from backend.base.progress import Progress
from backend.images.framing import View
from backend.images.pool import Pool
from backend.images.splits import Split
from backend.network.inference import Outputs, load_model, predict
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.rounds.loop import Loop
from backend.rounds.start import StartBody, find_start
from backend.store import model_outputs
from backend.store.tensor_file import State, body_key
from backend.store.version_meta import Meta

Rows = TypeVar("Rows", Probs, Embeddings)

NEW_CANDIDATES = 10_000  # images; embedding them takes about 15 seconds on two cores


@dataclass(frozen=True)
class PoolEmbeddings:
    """One body's embeddings of the images in a pool, (images, width) for each split."""

    pool: Embeddings  # rows match the pool's known_ids
    validation: Embeddings  # of the images in `held_out`
    test: Embeddings


def held_out(pool: Pool) -> Split:
    """Return the images that every version is measured on.

    If annotators label a sample, returns the whole sample. In this case, `pool.validation` contains
    only the images that are already labeled.
    """
    return pool.sample if pool.sample.image_ids else pool.validation


def embeddings_of(loop: Loop, meta: Meta, progress: Progress) -> tuple[str, PoolEmbeddings]:
    """Return a version's body key, and its embeddings of all images.

    The embedding of an image is computed only once.
    """
    kept = _load(loop, meta.body_key, meta.view) if meta.body_key else None
    wanted = _split_ids(loop.pool)
    if kept is not None and set(kept[0]) >= set(wanted):
        return meta.body_key, _split(loop.pool, select(kept, wanted))
    state = loop.registry.load_state(meta.body)
    key = body_key(state)
    return key, _load_or_embed(loop, state, key, meta.view, loop.own_embeddings, progress)


def start_body(loop: Loop, progress: Progress) -> tuple[StartBody, State, PoolEmbeddings]:
    """Return what the next training run starts from, as a full network and with its embeddings of
    all images.
    """
    start = find_start(loop, progress)
    state, folder = start.network(loop), start.embeddings_folder(loop)
    key = body_key(state)
    return start, state, _load_or_embed(loop, state, key, loop.view, folder, progress)


def start_embeddings(
    loop: Loop,
    image_ids: Sequence[str],
    progress: Progress,
    start: StartBody | None = None,
) -> Embeddings:
    """Return a body's embeddings of some images in one split, (images, width).

    The body is the next training run's start, unless `start` is given. Each image is embedded only
    once.
    """
    start = start or find_start(loop, progress)
    state = start.network(loop)
    key = body_key(state)
    kept = _load(loop, key, loop.view)

    def compute(missing: Sequence[str]) -> Embeddings:
        images = loop.pool.images_of(missing, progress=progress)
        embedded = score(loop, state, loop.view, images, "embedding", progress).embeddings
        _check_finite(embedded)
        return embedded

    whole = complete(kept, image_ids, compute)
    if whole is not kept:
        folder = start.embeddings_folder(loop)
        path = model_outputs.embeddings_path(folder, key, loop.view, loop.pool.name)
        model_outputs.save_embeddings(path, *whole)
    return select(whole, image_ids)


def start_candidates(
    loop: Loop, rows: Sequence[int], asked: Set[str], progress: Progress
) -> tuple[Sequence[int], Embeddings, Embeddings]:
    """Return which of these rows of the pool to choose from before the first version, their
    embeddings, and the embeddings of the images that were already queried.

    If many images are not embedded yet, the choice is limited to a random part of the pool, so that
    the first batch of a large pool does not wait for minutes. The part is always the same, without
    the images queried in the meantime.
    """
    start = find_start(loop, progress)
    kept = _load(loop, body_key(start.network(loop)), loop.view)
    embedded = set(kept[0]) if kept else set()
    image_ids = loop.pool.image_ids
    if sum(image_ids[row] not in embedded for row in rows) > NEW_CANDIDATES:
        allowed = set(rows)
        shuffled = np.random.default_rng(loop.seed).permutation(len(image_ids)).tolist()
        rows = sorted([row for row in shuffled if row in allowed][:NEW_CANDIDATES])
    queried = [image_id for image_id in loop.pool.known_ids if image_id in asked]
    wanted = [*(image_ids[row] for row in rows), *queried]
    found = start_embeddings(loop, wanted, progress, start)
    return rows, found[: len(rows)], found[len(rows) :]


def save_embeddings(
    loop: Loop, folder: Path, key: str, view: View, embeddings: PoolEmbeddings
) -> None:
    """Save a body's embeddings of all images."""
    path = model_outputs.embeddings_path(folder, key, view, loop.pool.name)
    rows = np.concatenate([embeddings.pool, embeddings.validation, embeddings.test])
    model_outputs.save_embeddings(path, _split_ids(loop.pool), rows)


def kept_embeddings(loop: Loop, meta: Meta, image_ids: Sequence[str]) -> Embeddings | None:
    """Load the version's embeddings of these images, or return None if any is missing."""
    kept = _load(loop, meta.body_key, meta.view) if meta.body_key else None
    return select(kept, image_ids) if kept and set(kept[0]) >= set(image_ids) else None


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


def complete(
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


def select(kept: tuple[tuple[str, ...], Rows], wanted: Sequence[str]) -> Rows:
    """Return the rows of the wanted images, in the order of those images."""
    if kept[0] == wanted:
        return kept[1]
    row_of = {image_id: row for row, image_id in enumerate(kept[0])}
    return kept[1][[row_of[image_id] for image_id in wanted]]


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
        _check_finite(*embedded)
        return np.concatenate(embedded)  # type: ignore[return-value]  # all of one type

    wanted = _split_ids(pool)
    kept = _load(loop, key, view)
    whole = complete(kept, wanted, compute)
    if whole is not kept:
        path = model_outputs.embeddings_path(folder, key, view, pool.name)
        model_outputs.save_embeddings(path, *whole)
    return _split(pool, select(whole, wanted))


def _check_finite(*embedded: Embeddings) -> None:
    if not all(np.isfinite(rows).all() for rows in embedded):
        raise TrainingError(
            "the embeddings of the pool contain NaN or infinite numbers: promote another version, "
            "or check the weights that WEIGHTS names"
        )


def _load(loop: Loop, key: str, view: View) -> tuple[tuple[str, ...], Embeddings] | None:
    """Load a body's saved embeddings if they have the width of our network."""
    width = resnet18(len(loop.pool.classes))[HEAD_TENSORS[0]].shape[1]
    for folder in (loop.own_embeddings, loop.shared_embeddings):
        path = model_outputs.embeddings_path(folder, key, view, loop.pool.name)
        if (kept := model_outputs.load_embeddings(path, width)) is not None:
            return kept
    return None


def _split_ids(pool: Pool) -> tuple[str, ...]:
    return pool.known_ids + held_out(pool).image_ids + pool.test.image_ids


def _split(pool: Pool, rows: Embeddings) -> PoolEmbeddings:
    n_known, n_validation = len(pool.known_ids), len(held_out(pool).image_ids)
    n_not_test = n_known + n_validation
    return PoolEmbeddings(rows[:n_known], rows[n_known:n_not_test], rows[n_not_test:])
