"""Test the choice of a plan on models whose errors are known, and its promise on many draws."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import beta, binom

from backend.base.arrays import Scores
from backend.measures.acceptance import sample_size, share_of
from backend.measures.calibration import rescale
from backend.measures.finish_plan import FinishPlan, choose_plan, smallest_max_error

SHARE = share_of(0)


def two_groups() -> tuple[Scores, NDArray[np.bool_], Scores]:
    """Return 400 sure validation images (all right), 400 unsure ones (half right), and a pool."""
    confidence = np.repeat([0.99, 0.5], 400).astype(np.float32)
    is_right = np.concatenate([np.ones(400, bool), np.arange(400) % 2 == 0])
    return confidence, is_right, np.repeat([0.99, 0.5], [3000, 7000]).astype(np.float32)


def test_the_model_labels_the_images_among_which_it_was_right_on_validation() -> None:
    plan = choose_plan(*two_groups(), 0.02, SHARE)
    assert plan is not None
    assert plan.threshold == pytest.approx(0.99)
    assert plan.n_above == 3000
    assert plan.n_sample == sample_size(3000, 0.02, plan.allowed_errors, SHARE)
    assert plan.n_by_model == 3000 - plan.n_sample
    assert (plan.max_error, plan.share) == (0.02, 0.025)


def test_the_threshold_selects_exactly_the_images_of_the_plan() -> None:
    rng = np.random.default_rng(0)
    pool = rng.random(5000).astype(np.float32)
    validation = rng.random(1000).astype(np.float32)
    plan = choose_plan(validation, validation > 0.3, pool, 0.02, SHARE)
    assert plan is not None
    assert (pool >= plan.threshold).sum() == plan.n_above
    assert 0.3 < plan.threshold < 0.4


def test_a_model_that_is_always_right_may_label_all_images() -> None:
    confidence = np.linspace(0.2, 1, 1000, dtype=np.float32)
    plan = choose_plan(confidence, np.ones(1000, bool), confidence, 0.05, SHARE)
    assert plan is not None
    assert plan.n_above == 1000


def test_the_chance_to_pass_averages_over_the_error_rates_that_validation_leaves_open() -> None:
    # 1,000 right and 3 wrong: the rate is Beta(3 + 3/2, 1,000 + 1/2), here as 20,000 quantiles.
    confidence = np.full(1003, 0.9, np.float32)
    plan = choose_plan(
        confidence, np.arange(1003) >= 3, np.full(5000, 0.9, np.float32), 0.02, SHARE
    )
    assert plan is not None
    rates = beta.ppf((np.arange(20_000) + 0.5) / 20_000, 4.5, 1000.5)
    expected = binom.cdf(plan.allowed_errors, plan.n_sample, rates).mean()
    assert plan.pass_probability == pytest.approx(expected, abs=1e-4)


def test_a_weak_model_a_few_validation_images_or_a_small_pool_allow_no_plan() -> None:
    confidence, is_right, pool = two_groups()
    assert choose_plan(confidence, np.arange(800) % 10 != 0, pool, 0.02, SHARE) is None
    assert choose_plan(confidence[:20], is_right[:20], pool, 0.02, SHARE) is None
    assert choose_plan(confidence, is_right, pool[2700:3300], 0.02, SHARE) is None
    nothing = np.empty(0, np.float32)
    assert choose_plan(nothing, np.empty(0, bool), pool, 0.02, SHARE) is None
    assert choose_plan(confidence, is_right, nothing, 0.02, SHARE) is None


@pytest.mark.parametrize("max_error", [1e-5, 1e-17, 1e-300])
def test_a_promise_for_which_even_a_sample_of_all_images_is_too_small_allows_no_plan(
    max_error: float,
) -> None:
    assert choose_plan(*two_groups(), max_error, SHARE) is None


def test_the_smallest_error_is_the_first_percentage_with_a_plan() -> None:
    confidence, _, pool = two_groups()
    is_right = np.arange(800) % 10 != 0  # 10 % wrong at any confidence
    found = smallest_max_error(confidence, is_right, pool, SHARE)
    assert found is not None
    assert found > 0.1
    assert choose_plan(confidence, is_right, pool, found, SHARE) is not None
    assert choose_plan(confidence, is_right, pool, found - 0.01, SHARE) is None
    assert smallest_max_error(confidence, np.zeros(800, bool), pool, SHARE) is None


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_promise_is_kept_in_98_of_100_runs_however_badly_the_model_is_calibrated(
    temperature: float,
) -> None:
    outcomes = [try_once(np.random.default_rng([seed, 7]), temperature) for seed in range(100)]
    passed = [is_kept for plan, is_kept in outcomes if plan is not None and is_kept is not None]
    assert len(passed) >= 60
    assert passed.count(False) <= 2


def try_once(rng: np.random.Generator, temperature: float) -> tuple[FinishPlan | None, bool | None]:
    """Return the plan of a random model, and whether it kept its promise; None if it made none."""
    logits = rng.normal(0, 5, (6500, 5))
    true_probs = softmax(logits, axis=1)
    labels = (true_probs.cumsum(axis=1) < rng.random((6500, 1))).sum(axis=1)
    probs = rescale(true_probs.astype(np.float32), temperature)
    confidence, is_right = probs.max(axis=1), probs.argmax(axis=1) == labels
    plan = choose_plan(confidence[:500], is_right[:500], confidence[500:], 0.05, SHARE)
    if plan is None:
        return None, None
    above = np.flatnonzero(confidence[500:] >= plan.threshold) + 500
    drawn = rng.permutation(above)
    sample, rest = drawn[: plan.n_sample], drawn[plan.n_sample :]
    if (~is_right[sample]).sum() > plan.allowed_errors:
        return plan, None
    return plan, bool((~is_right[rest]).mean() <= plan.max_error)
