"""Compute the confidence interval of a proportion."""

from __future__ import annotations

from functools import lru_cache

CONFIDENCE = 0.95


@lru_cache(maxsize=4096)
def interval_of(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval for a share of `n` items, within 0..1, or (0, 1) if `n` is 0.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if not n:
        return 0.0, 1.0
    from scipy.stats import binomtest  # a slow import

    found = binomtest(round(share * n), n).proportion_ci(CONFIDENCE, "wilson")
    return float(found.low), float(found.high)
