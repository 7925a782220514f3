"""Test acceptance sampling plans against textbook sizes, exact enumeration and simulated draws."""

from __future__ import annotations

from functools import cache
from math import comb

import numpy as np
import pytest

from backend.measures.acceptance import (
    RISK,
    allowed_wrong,
    error_bound,
    risk,
    sample_size,
    share_of,
)

LARGE = 10**6  # so many images that the sample does not change the rest


@cache
def probability(n_images: int, n_wrong: int, n_sampled: int, n_errors: int) -> float:
    """Return the hypergeometric probability of `n_errors` in the sample, by counting samples."""
    others = comb(n_images - n_wrong, n_sampled - n_errors)
    return comb(n_wrong, n_errors) * others / comb(n_images, n_sampled)


def broken(n_images: int, n_sampled: int, allowed_errors: int, percent: int) -> float:
    """Return how likely the plan breaks its promise for the worst number of wrong images."""
    return max(
        sum(
            probability(n_images, n_wrong, n_sampled, x)
            for x in range(min(allowed_errors, n_wrong, n_sampled) + 1)
            if n_sampled - x <= n_images - n_wrong
            and 100 * (n_wrong - x) > percent * (n_images - n_sampled)
        )
        for n_wrong in range(n_images + 1)
    )


def test_sizes_for_a_large_pool_are_those_of_the_textbook() -> None:
    # 0.98 ** 149 = 0.0493 and 0.98 ** 148 = 0.0503; 0.98 ** 183 = 0.0248 and 0.98 ** 182 = 0.0253
    assert sample_size(LARGE, 0.02, 0, 0.05) == 149
    assert sample_size(LARGE, 0.02, 0, 0.025) == 183
    # 0.98 ** 236 + 236 * 0.02 * 0.98 ** 235 = 0.0494; for 235 it is 0.0503
    assert sample_size(LARGE, 0.02, 1, 0.05) == 236
    # 0.95 ** 59 = 0.0485 and 0.95 ** 58 = 0.0510; 0.9 ** 29 = 0.0471 and 0.9 ** 28 = 0.0523
    assert sample_size(LARGE, 0.05, 0, 0.05) == 59
    assert sample_size(LARGE, 0.1, 0, 0.05) == 29


def test_a_small_pool_takes_a_larger_sample_because_the_sample_takes_correct_images_out() -> None:
    # 500 images, 183 sampled, 6 of 317 may be wrong. If 7 of 500 are, the sample contains none of
    # them with probability (317 / 500) * (316 / 499) * ... * (311 / 494) = 0.0402 > 0.025.
    worst = np.prod([(317 - i) / (500 - i) for i in range(7)])
    assert risk(500, np.array([183]), 0.02, 0)[0] == pytest.approx(worst)
    assert worst == pytest.approx(0.0402, abs=1e-4)
    # 229 sampled, 5 of 271 may be wrong: (271 / 500) * ... * (266 / 495) = 0.0248
    assert sample_size(500, 0.02, 0, 0.025) == 229


@pytest.mark.parametrize("percent", [5, 10, 30])
@pytest.mark.parametrize("n_images", [7, 23, 40, 61])
def test_the_size_is_the_smallest_that_keeps_both_conditions_by_enumeration(
    n_images: int, percent: int
) -> None:
    for allowed_errors in range(4):
        binomial = [
            sum(
                comb(n, x) * (percent / 100) ** x * (1 - percent / 100) ** (n - x)
                for x in range(min(allowed_errors, n) + 1)
            )
            for n in range(n_images)
        ]
        enough = [
            n
            for n in range(n_images)
            if binomial[n] <= 0.05 and broken(n_images, n, allowed_errors, percent) <= 0.05
        ]
        assert sample_size(n_images, percent / 100, allowed_errors, 0.05) == min(
            enough, default=None
        )


def test_the_worst_case_needs_no_search_by_enumeration() -> None:
    for n_images, percent in ((17, 10), (40, 5), (60, 20)):
        for allowed_errors in range(3):
            sizes = np.arange(allowed_errors + 1, n_images)
            expected = [broken(n_images, int(n), allowed_errors, percent) for n in sizes]
            found = risk(n_images, sizes, percent / 100, allowed_errors)
            assert found == pytest.approx(expected, rel=1e-9)


def test_drawing_the_sample_many_times_breaks_the_promise_as_often_as_computed() -> None:
    # 1,000 images, 2 % allowed, one error accepted: 318 sampled, 13 of 682 may be wrong. The worst
    # pool has 13 + 1 + 1 = 15 wrong images.
    n_sample = sample_size(1000, 0.02, 1, 0.025)
    assert n_sample == 318
    rng = np.random.default_rng(0)
    sampled = np.array([rng.permutation(1000)[:318] for _ in range(20_000)])
    for n_wrong, is_worst in ((14, False), (15, True), (18, False)):
        in_sample = (sampled < n_wrong).sum(axis=1)
        rate = ((in_sample <= 1) & (n_wrong - in_sample > 0.02 * 682)).mean()
        assert rate < 0.025 + 3 * (0.025 * 0.975 / 20_000) ** 0.5
        if is_worst:
            expected = risk(1000, np.array([318]), 0.02, 1)[0]
            assert rate == pytest.approx(expected, abs=3 * (expected / 20_000) ** 0.5)


def test_there_is_no_plan_if_people_would_have_to_label_every_image() -> None:
    assert sample_size(100, 0.02, 0, 0.025) is None  # 183 would be needed even of a large pool
    assert sample_size(0, 0.02, 0, 0.025) is None
    # With 9 of 10 sampled, the last image may not be wrong, and is never seen: 1 / 10 > 0.05.
    assert sample_size(10, 0.02, 0, 0.05) is None


@pytest.mark.parametrize(("n_images", "n_sampled"), [(20, 5), (40, 25), (60, 12)])
def test_the_bound_is_too_low_as_rarely_as_promised_by_enumeration(
    n_images: int, n_sampled: int
) -> None:
    for n_wrong in range(n_images + 1):
        too_low = sum(
            probability(n_images, n_wrong, n_sampled, x)
            for x in range(min(n_wrong, n_sampled) + 1)
            if n_sampled - x <= n_images - n_wrong
            and (n_wrong - x) / (n_images - n_sampled)
            > error_bound(n_images, n_sampled, x, 0.05) + 1e-12
        )
        assert too_low <= 0.05


def test_the_bound_of_a_passed_plan_is_at_most_the_promise_and_falls_with_fewer_errors() -> None:
    for n_images in (500, 5000, 17_400):
        for allowed_errors in (0, 1, 4):
            n_sample = sample_size(n_images, 0.05, allowed_errors, 0.025)
            assert n_sample is not None
            bounds = [
                error_bound(n_images, n_sample, n_errors, 0.025)
                for n_errors in range(allowed_errors + 2)
            ]
            assert bounds[allowed_errors] <= 0.05 < bounds[allowed_errors + 1]
            assert bounds == sorted(bounds)


def test_the_bound_without_a_sample_is_one_and_without_other_images_zero() -> None:
    assert error_bound(50, 0, 0, 0.05) == 1.0
    assert error_bound(50, 50, 3, 0.05) == 0.0


def test_the_tries_of_a_project_never_spend_more_than_five_percent() -> None:
    assert [share_of(n) for n in range(3)] == [0.025, 0.0125, 0.00625]
    assert sum(share_of(n) for n in range(200)) <= RISK


def test_the_promise_is_also_a_number_of_images() -> None:
    assert allowed_wrong(14_210, 0.02) == 284  # 284.2
    assert allowed_wrong(100, 0.07) == 7  # though 0.07 * 100 is 7.000000000000001
    assert allowed_wrong(100, 0.29) == 29  # though 0.29 * 100 is 28.999999999999996
    assert allowed_wrong(49, 0.02) == 0
