"""Plan a random sample that decides whether people accept a model's labels, and bound the errors.

This is an acceptance sampling plan for attributes (Dodge & Romig, 1929; ISO 2859-2 for a single
lot): `n` images of `N` are drawn at random without replacement, and the labels of the others are
accepted if at most `c` of the `n` are wrong. The number of errors in the sample is hypergeometric.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# The probability that any promise of a project is broken, over all of its tries together.
RISK = 0.05
SIZES_AT_ONCE = 8


def share_of(n_earlier_tries: int) -> float:
    """Return the part of RISK that the next try may spend: 2.5 %, then 1.25 %, and so on.

    Every try spends its part, however it ends. The parts never add up to more than RISK. By
    Bonferroni's inequality, all promises of a project therefore hold together with a probability of
    at least 95 %, even though the outcome of a try influences the next one.
    """
    return RISK / 2 ** (n_earlier_tries + 1)


def allowed_wrong(n_left: int, max_error: float) -> int:
    """Return how many wrong labels are allowed if the model labels `n_left` images."""
    # Rounding keeps 7 % of 100 at 7, although 0.07 * 100 is slightly more in floating point.
    return math.floor(round(n_left * max_error, 6))


@lru_cache(maxsize=4096)
def unlimited_size(max_error: float, allowed_errors: int, share: float) -> int:
    """Return the sample size for an unlimited number of images: the least that any pool needs.

    This is the smallest n for which Clopper and Pearson's upper bound (1934) on the probability of
    an error, with a confidence of 1 - `share`, is at most `max_error`: P(X <= c) <= `share` for
    X ~ Binomial(n, max_error). A promise of 2 % needs 149 images if no error is allowed and `share`
    is 5 %.
    """
    from scipy.stats import nbinom  # a slow import that only plans need

    # P(X <= c) is the probability that error number c + 1 takes more than n draws. The negative
    # binomial distribution counts these draws without the errors themselves.
    return int(nbinom.isf(share, allowed_errors + 1, max_error)) + allowed_errors + 1


def sample_size(n_images: int, max_error: float, allowed_errors: int, share: float) -> int | None:
    """Return how many of `n_images` people must label if `allowed_errors` of them may be wrong.

    Returns None if they would have to label all images. The size is the smallest that is at least
    `unlimited_size` and has a `risk` of at most `share`. The promise about the images that are left
    is then broken with at most this probability, however many of the `n_images` are wrong. A small
    pool needs more images than an unlimited one, because the sample takes correct images out of it.
    """
    smallest = unlimited_size(max_error, allowed_errors, share)
    for first in range(smallest, n_images, SIZES_AT_ONCE):
        sizes = np.arange(first, min(first + SIZES_AT_ONCE, n_images))
        is_enough = risk(n_images, sizes, max_error, allowed_errors) <= share
        if is_enough.any():
            return int(sizes[is_enough.argmax()])
    return None


def risk(
    n_images: int, sizes: NDArray[np.int64], max_error: float, allowed_errors: int
) -> NDArray[np.float64]:
    """Return the probability that a plan of each size breaks its promise, in the worst case.

    Of N images, E are wrong. A sample of n contains X ~ Hypergeometric(N, E, n) of them. The
    promise is broken if X <= c and more than A of the remaining N - n images are wrong, where A is
    `allowed_wrong`: E - X >= A + 1.

    Only E <= A + 1 + c needs to be considered. Up to this limit, E - X >= A + 1 implies X <= c, and
    E - X grows stochastically with E, so the probability rises. Above this limit, X <= c implies
    E - X >= A + 1, and P(X <= c) falls with E. The worst case is therefore E = A + 1 + c, for which
    the promise is broken exactly if X <= c.
    """
    from scipy.stats import hypergeom

    allowed = np.array([allowed_wrong(n_images - int(size), max_error) for size in sizes])
    worst = allowed + 1 + allowed_errors
    return hypergeom.cdf(allowed_errors, n_images, worst, sizes)


def error_bound(n_images: int, n_sampled: int, n_errors: int, share: float) -> float:
    """Return the upper bound on the share of wrong labels among the images that were not sampled.

    The bound is too low with a probability of at most `share`. It inverts the exact test of
    Clopper and Pearson (1934) with the hypergeometric distribution: the bound is the largest number
    r of remaining errors for which `n_errors` or fewer errors among the `n_sampled` images have a
    probability of more than `share`.
    """
    n_left = n_images - n_sampled
    if n_left == 0:
        return 0.0
    from scipy.stats import hypergeom

    def is_refuted(n_wrong_left: int) -> bool:
        return hypergeom.cdf(n_errors, n_images, n_wrong_left + n_errors, n_sampled) <= share

    return (bisect_left(range(n_left + 1), True, key=is_refuted) - 1) / n_left
