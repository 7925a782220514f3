"""Compute the confidence interval of a proportion."""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

from scipy.special import ndtri

CONFIDENCE = 0.95
Z = float(ndtri((1 + CONFIDENCE) / 2))  # 1.96


@lru_cache(maxsize=4096)
def interval_of(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval for a share of `n` items, within 0..1, or (0, 1) if `n` is 0.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if not n:
        return 0.0, 1.0
    # scipy.stats.binomtest computes the same interval, but takes a second to import.
    share = round(share * n) / n
    center = share + Z**2 / (2 * n)
    margin = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((center + side) / (1 + Z**2 / n) for side in (-margin, margin))
    return (low if share > 0 else 0.0), (high if share < 1 else 1.0)
