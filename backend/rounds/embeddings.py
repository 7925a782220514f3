"""Find the body in use, or the one that training starts from, and its embeddings of the pool."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from backend.base.arrays import EmbeddingRows, Embeddings
from backend.base.progress import Progress
from backend.base.row_blocks import part
from backend.rounds.body_embeddings import BodyEmbeddings, PoolEmbeddings
from backend.rounds.loop import Loop
from backend.rounds.start import StartBody, find_start
from backend.store.tensor_file import State, body_key
from backend.store.version_meta import Meta

NEW_CANDIDATES = 10_000  # images; embedding them takes about 15 seconds on two cores


def version_body(loop: Loop, meta: Meta) -> BodyEmbeddings:
    """Return the embeddings of a version's body: in the project's folder, or in the shared one."""

    def load_state() -> State:
        return loop.registry.load_state(meta.body)

    key = meta.body_key or body_key(load_state())  # earlier releases did not record it
    own, shared = (
        BodyEmbeddings(loop, key, meta.view, folder, load_state)
        for folder in (loop.own_embeddings, loop.shared_embeddings)
    )
    return shared if shared.exists and not own.exists else own


def embeddings_of(loop: Loop, meta: Meta, progress: Progress) -> tuple[str, PoolEmbeddings]:
    """Return a version's body key, and its body's embeddings of all images."""
    body = version_body(loop, meta)
    return body.key, body.of_all(progress)


def start_body(loop: Loop, progress: Progress) -> tuple[StartBody, State, PoolEmbeddings]:
    """Return what the next training run starts from, as a full network and with its embeddings of
    all images.
    """
    start = find_start(loop, progress)
    state = start.network(loop)
    return start, state, _of_start(loop, start, state).of_all(progress)


def start_embeddings(
    loop: Loop,
    image_ids: Sequence[str],
    progress: Progress,
    start: StartBody | None = None,
) -> Embeddings:
    """Return a body's embeddings of some images in one split, (images, width).

    The body is the next training run's start, unless `start` is given.
    """
    start = start or find_start(loop, progress)
    return _of_start(loop, start, start.network(loop)).of(image_ids, "embedding", progress)[:]


def start_candidates(
    loop: Loop, rows: Sequence[int], asked: Set[str], progress: Progress
) -> tuple[Sequence[int], EmbeddingRows, EmbeddingRows]:
    """Return which of these rows of the pool to choose from before the first version, their
    embeddings, and the embeddings of the images that were already queried.

    If many images are not embedded yet, the choice is limited to a random part of the pool, so that
    the first batch of a large pool does not wait for minutes. The part is always the same, without
    the images queried in the meantime.
    """
    start = find_start(loop, progress)
    body = _of_start(loop, start, start.network(loop))
    image_ids = loop.pool.image_ids
    if len(body.missing([image_ids[row] for row in rows])) > NEW_CANDIDATES:
        allowed = set(rows)
        shuffled = np.random.default_rng(loop.seed).permutation(len(image_ids)).tolist()
        rows = sorted([row for row in shuffled if row in allowed][:NEW_CANDIDATES])
    queried = [image_id for image_id in loop.pool.known_ids if image_id in asked]
    # Together, because the images queried so far may be few, and a batch of the network is large.
    wanted = [*(image_ids[row] for row in rows), *queried]
    found = body.of(wanted, "embedding", progress)
    return rows, part(found, slice(len(rows))), part(found, slice(len(rows), None))


def _of_start(loop: Loop, start: StartBody, state: State) -> BodyEmbeddings:
    folder = start.embeddings_folder(loop)
    return BodyEmbeddings(loop, body_key(state), loop.view, folder, lambda: state)
