"""Choose which images the model could label, and the sample that people check first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from backend.base.arrays import Scores
from backend.measures.acceptance import sample_size, unlimited_size

ALLOWED_ERRORS = range(10)
N_THRESHOLDS = 50
MIN_PASS_PROBABILITY = 0.5
MAX_ERRORS = range(1, 51)  # percent


@dataclass(frozen=True)
class FinishPlan:
    """A threshold of confidence, and the acceptance sample for the images that reach it."""

    max_error: float  # the largest share of wrong labels that the promise allows
    share: float  # the probability that the promise is broken
    threshold: float  # the model labels images with at least this confidence
    n_above: int  # number of these images; the sample is drawn from them
    n_sample: int  # how many of them people label
    allowed_errors: int  # the try passes with at most this many errors in the sample
    pass_probability: float  # predicted from the validation images

    @property
    def n_by_model(self) -> int:
        """Return how many images the model labels if the try passes."""
        return self.n_above - self.n_sample


def choose_plan(
    confidence: Scores,
    is_right: NDArray[np.bool_],
    unlabeled: Scores,
    max_error: float,
    share: float,
) -> FinishPlan | None:
    """Return the plan by which the model is expected to label the most images, or None.

    `confidence` and `is_right` describe the validation images; `unlabeled` contains the confidence
    of each image without a label. There is no plan unless one is likely to pass and lets the model
    label at least as many images as it asks people for.

    The choice cannot break the promise, which rests on the sample alone. It only decides how often
    a try passes, and for how many images.
    """
    plans = (
        plan
        for plan in _find_plans(confidence, is_right, unlabeled, max_error, share)
        if plan.pass_probability >= MIN_PASS_PROBABILITY and plan.n_by_model >= plan.n_sample
    )
    return max(plans, key=lambda plan: plan.pass_probability * plan.n_by_model, default=None)


def smallest_max_error(
    confidence: Scores, is_right: NDArray[np.bool_], unlabeled: Scores, share: float
) -> float | None:
    """Return the smallest `max_error` in steps of 1 % for which a plan exists, or None.

    A plan for an error also exists for a larger error, because it needs a smaller sample.
    """

    def has_plan(percent: int) -> bool:
        return choose_plan(confidence, is_right, unlabeled, percent / 100, share) is not None

    found = bisect_left(MAX_ERRORS, True, key=has_plan)
    return None if found == len(MAX_ERRORS) else MAX_ERRORS[found] / 100


def _find_plans(
    confidence: Scores,
    is_right: NDArray[np.bool_],
    unlabeled: Scores,
    max_error: float,
    share: float,
) -> Iterator[FinishPlan]:
    """Yield the plans for thresholds at evenly spaced ranks of the unlabeled images."""
    if not len(unlabeled):
        return
    smallest_sizes = [unlimited_size(max_error, c, share) for c in ALLOWED_ERRORS]
    ranks = np.linspace(0, 1, N_THRESHOLDS, endpoint=False)
    for threshold in np.unique(np.quantile(unlabeled, ranks, method="lower")):
        right = is_right[confidence >= threshold]
        n_right, n_wrong = int(right.sum()), int((~right).sum())
        if (_pass_probabilities(n_right, n_wrong, smallest_sizes) < MIN_PASS_PROBABILITY).all():
            continue  # larger samples are even less likely to pass
        n_above = int((unlabeled >= threshold).sum())
        sizes = list(_sample_sizes(n_above, max_error, share))
        probabilities = _pass_probabilities(n_right, n_wrong, sizes)
        for allowed_errors, n_sample in enumerate(sizes):
            yield FinishPlan(
                max_error,
                share,
                float(threshold),
                n_above,
                n_sample,
                allowed_errors,
                float(probabilities[allowed_errors]),
            )


def _sample_sizes(n_images: int, max_error: float, share: float) -> Iterator[int]:
    """Yield the sample sizes for 0, 1, 2, ... allowed errors, as long as a sample is enough."""
    for allowed_errors in ALLOWED_ERRORS:
        n_sample = sample_size(n_images, max_error, allowed_errors, share)
        if n_sample is None:
            return
        yield n_sample


def _pass_probabilities(n_right: int, n_wrong: int, sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return the probability of at most c errors in a sample of `sizes[c]` images, for each c.

    The error rate has Jeffreys' prior, Beta(1/2, 1/2), updated by the validation images that reach
    the threshold. The number of errors in a sample is therefore beta-binomial.
    """
    n_errors = np.arange(len(sizes))[:, None]
    pmf = betabinom.pmf(n_errors, np.array(sizes), n_wrong + 0.5, n_right + 0.5)
    return pmf.cumsum(axis=0).diagonal()
