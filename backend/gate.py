"""The champion gate: what two versions got right on the same images in; is it worse? out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Right = NDArray[np.bool_]  # (images,), whether a version's favourite class is the label

SIGNIFICANCE = 0.025
# With fewer images even six that fall, the fewest that can be significant, are a large loss.
MIN_IMAGES = 100


@dataclass(frozen=True)
class Comparison:
    """Candidate against current version; `fell` images were right before and are wrong now."""

    p_value: float
    fell: int
    rose: int


def compare(candidate: Right, current: Right) -> Comparison:
    """McNemar's exact test, one-sided, on the same images in the same order.

    Where both versions are as good, each image on which they differ falls or rises like a coin;
    `p_value` is the chance of at least as many falls (McNemar, 1947).
    """
    fell = int((current & ~candidate).sum())
    rose = int((candidate & ~current).sum())
    if fell + rose == 0:
        return Comparison(1.0, 0, 0)
    test = binomtest(fell, fell + rose, alternative="greater")
    return Comparison(float(test.pvalue), fell, rose)
