"""Choose which images the model could label, and the sample that people label first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Scores
from backend.measures.acceptance import sample_size, unlimited_size

# Allowing more errors needs a larger sample, but lets weaker models pass. With more than this,
# people label many more images, and the model labels hardly more.
ALLOWED_ERRORS = range(20)
N_THRESHOLDS = 50
MIN_PASS_PROBABILITY = 0.5
# The prior of the error rate is Beta(3/2, 1/2): Jeffreys' prior plus one error, because the
# threshold tends to be chosen where few validation images happen to be wrong. Jeffreys' prior alone
# predicts far too often that a weak model's try passes.
PRIOR_WRONG, PRIOR_RIGHT = 1.5, 0.5
MAX_ERRORS = range(1, 51)  # percent, for `smallest_max_error`

Counts = NDArray[np.int64]


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

    @property
    def n_expected(self) -> float:
        """Return how many images the model labels on average; a try that fails counts as none.

        The number is 0 for a plan that is not worth a try, because the plan is unlikely to pass or
        asks people for more images than the model would label.
        """
        is_worthwhile = (
            self.pass_probability >= MIN_PASS_PROBABILITY and self.n_by_model >= self.n_sample
        )
        return self.pass_probability * self.n_by_model * is_worthwhile


def choose_plan(
    confidence: Scores,
    is_right: NDArray[np.bool_],
    unlabeled: Scores,
    max_error: float,
    share: float,
) -> FinishPlan | None:
    """Return the plan with which the model is expected to label the most images, or None.

    `confidence` and `is_right` describe the validation images; `unlabeled` contains the confidence
    of each image without a label. A plan must be likely to pass, and must let the model label at
    least as many images as people label in the sample.

    The choice cannot break the promise, which rests on the sample alone. It only decides how often
    a try passes, and for how many images.
    """
    best: FinishPlan | None = None
    drafts = _draft_plans(confidence, is_right, unlabeled, max_error, share)
    for draft in sorted(drafts, key=lambda draft: draft.n_expected, reverse=True):
        best_expected = best.n_expected if best else 0.0
        if draft.n_expected <= best_expected:
            break  # a draft is never worse than its plan, so no better plan follows
        plan = _complete(draft, is_right[confidence >= draft.threshold])
        if plan is not None and plan.n_expected > best_expected:
            best = plan
    return best


def smallest_max_error(
    confidence: Scores, is_right: NDArray[np.bool_], unlabeled: Scores, share: float
) -> float | None:
    """Return the smallest `max_error` in steps of 1 % for which a plan exists, or None.

    If there is a plan for one `max_error`, there is also a plan for every larger one, because it
    needs a smaller sample.
    """

    def has_plan(percent: int) -> bool:
        return choose_plan(confidence, is_right, unlabeled, percent / 100, share) is not None

    found = bisect_left(MAX_ERRORS, True, key=has_plan)
    return None if found == len(MAX_ERRORS) else MAX_ERRORS[found] / 100


def _draft_plans(
    confidence: Scores,
    is_right: NDArray[np.bool_],
    unlabeled: Scores,
    max_error: float,
    share: float,
) -> Iterator[FinishPlan]:
    """Yield plans with the sample sizes of an unlimited pool, which need no search.

    Their thresholds are at evenly spaced ranks of the unlabeled images.
    """
    # If this holds, even a sample of all images would be too small. SciPy would search for the size
    # forever if `max_error` is tiny.
    if (1 - max_error) ** len(unlabeled) > share:
        return
    ranks = np.linspace(0, 1, N_THRESHOLDS, endpoint=False)
    thresholds = np.unique(np.quantile(unlabeled, ranks, method="lower"))
    n_above = _count_above(thresholds, unlabeled).tolist()
    n_right = _count_above(thresholds, confidence[is_right])
    n_wrong = _count_above(thresholds, confidence[~is_right])
    for allowed_errors in ALLOWED_ERRORS:
        n_sample = unlimited_size(max_error, allowed_errors, share)
        chances = _pass_probability(n_right, n_wrong, n_sample, allowed_errors)
        for threshold, n, chance in zip(
            thresholds.tolist(), n_above, chances.tolist(), strict=True
        ):
            yield FinishPlan(max_error, share, threshold, n, n_sample, allowed_errors, chance)


def _complete(draft: FinishPlan, validated: NDArray[np.bool_]) -> FinishPlan | None:
    """Return the draft with the sample size that it needs, or None if it needs all images.

    `validated` states whether the model is right on each validation image above the threshold.
    """
    n_sample = sample_size(draft.n_above, draft.max_error, draft.allowed_errors, draft.share)
    if n_sample is None:
        return None
    n_right = validated.sum(keepdims=True)
    n_wrong = len(validated) - n_right
    chance = _pass_probability(n_right, n_wrong, n_sample, draft.allowed_errors)
    return replace(draft, n_sample=n_sample, pass_probability=chance.item())


def _count_above(thresholds: Scores, confidence: Scores) -> Counts:
    """Return for each threshold how many images reach it."""
    return len(confidence) - np.searchsorted(np.sort(confidence), thresholds)


def _pass_probability(
    n_right: Counts, n_wrong: Counts, n_sample: int, allowed_errors: int
) -> NDArray[np.float64]:
    """Return the probability of at most `allowed_errors` errors in a sample, for each threshold.

    The validation images that reach the threshold update the prior of the error rate. The number of
    errors in a sample is therefore beta-binomial.
    """
    from scipy.stats import betabinom  # a slow import that only plans need

    n_errors = np.arange(allowed_errors + 1)[:, None]
    return betabinom.pmf(n_errors, n_sample, n_wrong + PRIOR_WRONG, n_right + PRIOR_RIGHT).sum(
        axis=0
    )
