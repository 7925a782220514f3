"""Use a query strategy to choose which images to query next, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backend.asking.acquisition import ACQUISITIONS, margin
from backend.asking.diversity import (
    badge,
    interleave,
    k_center,
    typiclust,
    uncertain_clusters,
)
from backend.base.arrays import EmbeddingRows, Positions, Probs, Scores
from backend.base.errors import NoModelError
from backend.base.strategy_names import ResolvedName, StrategyName

# Until this many images per class have been queried, `auto` chooses typical images. The number was
# found by experiment.
TYPICAL_PER_CLASS = 20

# These functions take probabilities, embeddings, embeddings of queried images, a count and a
# random generator.
SetStrategy = Callable[[Probs, EmbeddingRows, EmbeddingRows, int, np.random.Generator], Positions]
SETS: dict[ResolvedName, SetStrategy] = {
    "typiclust": lambda _, embeddings, asked, count, rng: typiclust(embeddings, asked, count, rng),
    "k_center": lambda _, embeddings, asked, count, __: k_center(embeddings, asked, count),
    "badge": lambda probs, embeddings, _, count, rng: badge(probs, embeddings, count, rng),
    "uncertain_clusters": lambda probs, embeddings, asked, count, rng: uncertain_clusters(
        margin(probs), embeddings, asked, count, rng
    ),
}
NEED_NO_MODEL: frozenset[ResolvedName] = frozenset({"typiclust", "k_center", "random"})


@dataclass(frozen=True)
class Candidates:
    """Images that may be queried, with one row of data per image."""

    image_ids: Sequence[str]
    probs: Probs | None  # None if there is no model
    embeddings: EmbeddingRows | None = None  # None if they are not needed or not available
    asked: EmbeddingRows | None = None  # embeddings of the images already queried


@dataclass(frozen=True)
class Query:
    """Images to query, most informative first."""

    image_ids: tuple[str, ...]
    confidences: Scores  # determine the order of the images: low = query first
    strategy: ResolvedName  # the strategy that chose the images


def select(
    strategy: ResolvedName, candidates: Candidates, count: int, rng: np.random.Generator
) -> Query:
    """Choose `count` of the candidates, or all if there are fewer.

    If the probabilities or embeddings that a strategy needs are missing, the choice is random. Ties
    follow the order of the candidates, so a choice can be reproduced.
    """
    strategy, order, confidences = _choose(strategy, candidates, count, rng)
    return Query(tuple(candidates.image_ids[i] for i in order), confidences, strategy)


def rank(strategy: ResolvedName, candidates: Candidates, rng: np.random.Generator) -> Scores:
    """Return the confidences that set the order of the candidates if all of them are queried."""
    n_images = len(candidates.image_ids)
    _, order, ordered = _choose(strategy, candidates, n_images, rng)
    confidences = np.empty(n_images, np.float32)
    confidences[order] = ordered
    return confidences


def confidence(
    strategy: ResolvedName, n_images: int, probs: Probs | None, rng: np.random.Generator
) -> Scores:
    """Return each image's confidence, 0..1, independent of the other images; low = query first.

    The confidence is 1 minus the acquisition score. `random` provides an order but no scores, so an
    image's confidence is its position in that order divided by the number of images. A strategy
    that chooses sets cannot score single images, so the margin is used instead. Raises NoModelError
    if there are no usable probabilities.
    """
    if strategy == "random":
        return (rng.permutation(n_images) / max(n_images, 1)).astype(np.float32)
    if probs is None:
        raise NoModelError(
            f"strategy {strategy} needs a model version, but there is none yet: "
            "label the first batch, set SEED_LABELS, or use STRATEGY=random"
        )
    if not np.isfinite(probs).all():
        raise NoModelError(
            "the model's probabilities contain NaN: roll back with scripts.models promote"
        )
    return np.float32(1.0) - ACQUISITIONS.get(strategy, margin)(probs)


def resolve(strategy: StrategyName, *, n_asked: int, n_classes: int) -> ResolvedName:
    """Resolve `auto` to its current strategy: typical images at first, uncertain images later."""
    if strategy != "auto":
        return strategy
    is_early = n_asked < TYPICAL_PER_CLASS * n_classes
    return "typiclust" if is_early else "uncertain_clusters"


def needs_embeddings(strategy: ResolvedName) -> bool:
    """Return whether a strategy needs embeddings."""
    return strategy in SETS


def needs_model(strategy: ResolvedName) -> bool:
    """Return whether a strategy needs probabilities."""
    return strategy not in NEED_NO_MODEL


def _choose(
    strategy: ResolvedName, candidates: Candidates, count: int, rng: np.random.Generator
) -> tuple[ResolvedName, Positions, Scores]:
    """Return the strategy actually used, the positions that it chose, and their confidences."""
    n_images, probs, embeddings = len(candidates.image_ids), candidates.probs, candidates.embeddings
    lacks_model = probs is None and needs_model(strategy)
    if lacks_model or (embeddings is None and needs_embeddings(strategy)):
        strategy = "random"
    if embeddings is None or strategy not in SETS:
        scores = confidence(strategy, n_images, probs, rng)
        order = np.argsort(scores, kind="stable")[:count]
        return strategy, order, scores[order]
    order = np.empty(0, np.int64)
    if count and n_images:
        known = np.empty((n_images, 0), np.float32) if probs is None else probs
        asked = embeddings[:0] if candidates.asked is None else candidates.asked
        order = interleave(embeddings, SETS[strategy](known, embeddings, asked, count, rng))
    return strategy, order, (np.arange(len(order)) / max(len(order), 1)).astype(np.float32)
