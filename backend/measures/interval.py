"""Intervals: a share, and of how many it is one, in; the interval that it is known to, out."""

from __future__ import annotations

from functools import lru_cache

from scipy.stats import binomtest

CONFIDENCE = 0.95


@lru_cache(maxsize=4096)
def interval_of(share: float, n: int) -> tuple[float, float]:
    """Bounds of a share of `n`, both in 0..1, at 95 % confidence (Wilson, 1927); of none: 0, 1."""
    if not n:
        return 0.0, 1.0
    found = binomtest(round(share * n), n).proportion_ci(CONFIDENCE, "wilson")
    return float(found.low), float(found.high)
