"""Choose which images to ask next, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backend.asking.acquisition import ACQUISITIONS, margin
from backend.asking.diversity import (
    Positions,
    badge,
    interleave,
    k_center,
    typiclust,
    uncertain_clusters,
)
from backend.base.arrays import Embeddings, Probs, Scores
from backend.base.errors import NoModelError
from backend.base.strategy_names import ResolvedName, StrategyName

# Until so many images of each class were asked, on average, `auto` asks typical ones. Measured.
TYPICAL_PER_CLASS = 20


@dataclass(frozen=True)
class Candidates:
    """Images that may be asked, and what is known of them: a row each."""

    image_ids: Sequence[str]
    probs: Probs | None  # None while there is no model
    embeddings: Embeddings | None = None  # None where the strategy needs none, or there are none
    asked: Embeddings | None = None  # of images that have been asked already


@dataclass(frozen=True)
class Query:
    """Images to ask, most informative first, each with the confidence that orders it (low = ask
    first), and the strategy that chose them.
    """

    image_ids: tuple[str, ...]
    confidences: Scores
    strategy: ResolvedName


def select(
    strategy: ResolvedName, candidates: Candidates, count: int, rng: np.random.Generator
) -> Query:
    """Choose `count` of the candidates, or all where there are fewer.

    A strategy that lacks what it needs, the model's probabilities or any embeddings, chooses at
    random. Equal scores are taken in the order of the candidates, so that a choice can be repeated.
    """
    if not _can_choose(strategy, candidates):
        strategy = "random"
    if strategy in SETS:
        order = _order(strategy, candidates, count, rng)
        confidences = _places(len(order))
    else:
        scores = confidence(strategy, len(candidates.image_ids), candidates.probs, rng)
        order = np.argsort(scores, kind="stable")[:count]
        confidences = scores[order]
    return Query(tuple(candidates.image_ids[i] for i in order), confidences, strategy)


def rank(strategy: ResolvedName, candidates: Candidates, rng: np.random.Generator) -> Scores:
    """The confidence that orders each of the candidates, when all of them are asked."""
    n_images = len(candidates.image_ids)
    if not _can_choose(strategy, candidates):
        strategy = "random"
    if strategy not in SETS:
        return confidence(strategy, n_images, candidates.probs, rng)
    confidences = np.empty(n_images, np.float32)
    confidences[_order(strategy, candidates, n_images, rng)] = _places(n_images)
    return confidences


def confidence(
    strategy: ResolvedName, n_images: int, probs: Probs | None, rng: np.random.Generator
) -> Scores:
    """One value in 0..1 per image, low = ask first: what Label Studio orders open tasks by.

    1 - acquisition score where the strategy scores images one by one; for `random`, which has an
    order but no scores, the image's place in that order over the number of images. A strategy that
    chooses sets has no score for an image by itself: its margin stands in.
    """
    if strategy == "random":
        return (rng.permutation(n_images) / max(n_images, 1)).astype(np.float32)
    if probs is None:
        raise NoModelError(
            f"strategy {strategy} needs a model version and there is none yet: "
            "label the first batch, set SEED_LABELS, or use STRATEGY=random"
        )
    if not np.isfinite(probs).all():
        raise NoModelError(
            "the model's probabilities hold NaN: roll back with scripts.models promote"
        )
    return np.float32(1.0) - ACQUISITIONS.get(strategy, margin)(probs)


def resolve(strategy: StrategyName, *, n_asked: int, n_classes: int) -> ResolvedName:
    """What `auto` does now: typical images first, then uncertain ones of many kinds."""
    if strategy != "auto":
        return strategy
    is_early = n_asked < TYPICAL_PER_CLASS * n_classes
    return "typiclust" if is_early else "uncertain_clusters"


def needs_embeddings(strategy: ResolvedName) -> bool:
    """Whether a resolved strategy chooses by more than probabilities."""
    return strategy in SETS


def needs_model(strategy: ResolvedName) -> bool:
    """Whether a resolved strategy can do nothing without probabilities."""
    return strategy not in NEED_NO_MODEL and strategy != "random"


def _can_choose(strategy: ResolvedName, candidates: Candidates) -> bool:
    if strategy in NEED_NO_MODEL:
        return candidates.embeddings is not None
    if strategy == "random":
        return True
    has_embeddings = candidates.embeddings is not None or strategy not in SETS
    return candidates.probs is not None and has_embeddings


def _order(
    strategy: ResolvedName, candidates: Candidates, count: int, rng: np.random.Generator
) -> Positions:
    embeddings = candidates.embeddings
    assert embeddings is not None, "_can_choose"
    if count == 0 or len(embeddings) == 0:
        return np.empty(0, np.int64)
    return interleave(embeddings, SETS[strategy](candidates, count, rng))


def _places(n_images: int) -> Scores:
    return (np.arange(n_images) / max(n_images, 1)).astype(np.float32)


def _asked(candidates: Candidates) -> Embeddings:
    assert candidates.embeddings is not None
    return candidates.embeddings[:0] if candidates.asked is None else candidates.asked


def _typiclust(c: Candidates, count: int, rng: np.random.Generator) -> Positions:
    assert c.embeddings is not None
    return typiclust(c.embeddings, _asked(c), count, rng)


def _k_center(c: Candidates, count: int, _: np.random.Generator) -> Positions:
    assert c.embeddings is not None
    return k_center(c.embeddings, _asked(c), count)


def _badge(c: Candidates, count: int, rng: np.random.Generator) -> Positions:
    assert c.embeddings is not None
    assert c.probs is not None
    return badge(c.probs, c.embeddings, count, rng)


def _uncertain_clusters(c: Candidates, count: int, rng: np.random.Generator) -> Positions:
    assert c.embeddings is not None
    assert c.probs is not None
    return uncertain_clusters(margin(c.probs), c.embeddings, _asked(c), count, rng)


# Strategies that choose a set, whose order is all they have.
SETS: dict[ResolvedName, Callable[[Candidates, int, np.random.Generator], Positions]] = {
    "typiclust": _typiclust,
    "k_center": _k_center,
    "badge": _badge,
    "uncertain_clusters": _uncertain_clusters,
}
NEED_NO_MODEL: frozenset[ResolvedName] = frozenset({"typiclust", "k_center"})
