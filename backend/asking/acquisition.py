"""Score how informative images are, from class probabilities.

Every score is between 0 and 1. An image with a higher score is queried sooner, so 1 - score can be
shown as a confidence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Probs, Scores
from backend.base.strategy_names import ResolvedName


def least_confidence(probs: Probs) -> Scores:
    """Return 1 minus the top class's probability, at most 1 - 1/classes (Lewis & Gale, 1994)."""
    return _unit(1.0 - probs.max(axis=1))


def margin(probs: Probs) -> Scores:
    """Return 1 minus the gap between the two highest probabilities (Scheffer et al., 2001)."""
    second, first = np.partition(probs, -2, axis=1)[:, -2:].T
    return _unit(1.0 - (first - second))


def entropy(probs: Probs) -> Scores:
    """Return Shannon entropy divided by its maximum, log(classes) (Settles, 2009, section 3.1)."""
    # As p approaches 0, so does p log p; the clip keeps the logarithm finite at 0.
    nats = -(probs * np.log(np.clip(probs, np.finfo(np.float32).tiny, None))).sum(axis=1)
    return _unit(nats / np.log(probs.shape[1]))


ACQUISITIONS: dict[ResolvedName, Callable[[Probs], Scores]] = {
    "least_confidence": least_confidence,
    "margin": margin,
    "entropy": entropy,
}


def _unit(scores: NDArray[np.floating]) -> Scores:
    """Clip scores that rounding pushed out of 0..1."""
    return np.clip(scores, 0.0, 1.0).astype(np.float32)
