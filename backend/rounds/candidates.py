"""Gather what is known of images that may be asked."""

from __future__ import annotations

from collections.abc import Sequence, Set

from backend.asking.query import Candidates, needs_embeddings, needs_model
from backend.base.progress import Progress
from backend.base.strategy_names import ResolvedName
from backend.rounds.loop import Loop
from backend.rounds.versions import embeddings_of, has_pretrained_body, pool_probs, pretrained_body
from backend.store.version_meta import Meta


def find_candidates(
    loop: Loop,
    version: Meta | None,
    strategy: ResolvedName,
    rows: Sequence[int],
    asked: Set[str],
    progress: Progress,
) -> Candidates:
    """Return what is known of the pool's images in `rows`, as far as the strategy needs it."""
    embeddings = None
    if needs_embeddings(strategy):
        if version is not None:
            embeddings = embeddings_of(loop, version, progress)[1].pool
        elif has_pretrained_body(loop) and not needs_model(strategy):
            embeddings = pretrained_body(loop, progress)[1].pool
    of_asked = [row for row, i in enumerate(loop.pool.image_ids) if i in asked]
    return Candidates(
        image_ids=[loop.pool.image_ids[row] for row in rows],
        probs=None if version is None else pool_probs(loop, version, progress)[rows],
        embeddings=None if embeddings is None else embeddings[rows],
        asked=None if embeddings is None else embeddings[of_asked],
    )
