"""Querying: probabilities in, which images to ask next and in which order out; and when a round is
due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.acquisition import ACQUISITIONS, Probs, Scores
from backend.errors import NoModelError

STRATEGIES = (*ACQUISITIONS, "random")


@dataclass(frozen=True)
class Query:
    """Images to ask, most informative first, each with the confidence that orders it (low = ask
    first).
    """

    image_ids: tuple[str, ...]
    confidences: Scores


def select(
    strategy: str,
    image_ids: Sequence[str],
    probs: Probs | None,
    count: int,
    rng: np.random.Generator,
) -> Query:
    """Choose `count` of `image_ids`, or all where there are fewer.

    `probs` has a row per image id, and is None while there is no model: only `random` works then
    (NoModelError). Equal scores are taken in the order of `image_ids`, so that a choice can be
    repeated.
    """
    confidences = confidence(strategy, len(image_ids), probs, rng)
    first = np.argsort(confidences, kind="stable")[:count]
    return Query(tuple(image_ids[i] for i in first), confidences[first])


def confidence(
    strategy: str, n_images: int, probs: Probs | None, rng: np.random.Generator
) -> Scores:
    """One value in 0..1 per image, low = ask first: what Label Studio orders open tasks by.

    1 - acquisition score where the strategy scores images one by one; for `random`, which has an
    order but no scores, the image's place in that order over the number of images.
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
    return np.float32(1.0) - ACQUISITIONS[strategy](probs)


def batch_is_due(
    n_open: int, batch_size: int, rounds_done: int, rounds: int, *, is_new_version: bool = False
) -> bool:
    """Whether to ask the next batch: people may soon run out of tasks, and rounds are left.

    A new version asks its own batch as long as that leaves at most two batches open, so that its
    choice comes before what is left of the last one. `rounds` 0 = no end.
    """
    has_room = n_open < batch_size or (is_new_version and n_open == batch_size)
    return has_room and not (rounds and rounds_done >= rounds)


def retrain_is_due(
    n_new: int, waited_s: float, *, is_forced: bool, retrain_after: int, retrain_wait_s: float
) -> bool:
    """Whether enough annotations are new, or the first new one has waited long enough, or a person
    said so.
    """
    return is_forced or n_new >= retrain_after or (n_new > 0 and waited_s >= retrain_wait_s)
