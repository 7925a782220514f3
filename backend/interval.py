"""Intervals: a share, and of how many it is one, in; the interval that it is known to, out."""

from __future__ import annotations

from functools import lru_cache

from scipy.stats import binomtest

CONFIDENCE = 0.95


@lru_cache(maxsize=4096)
def interval_of(share: float, n: int) -> tuple[float, float]:
    """Bounds of a share of `n` (1 or more), both in 0..1, at 95 % confidence (Wilson, 1927)."""
    found = binomtest(round(share * n), n).proportion_ci(CONFIDENCE, "wilson")
    return float(found.low), float(found.high)
