"""Check by hand how a run lets a model label the rest, and what the table says about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.measures.acceptance import sample_size, share_of
from scripts.research.finish_models import TrainedModel
from scripts.research.finish_trial import (
    Candidate,
    Condition,
    Outcome,
    accepted,
    judge,
    make_candidate,
    run_conditions,
    run_tries,
    summarize,
)
from scripts.research.hidden_pool import HiddenPool

BEFORE = Outcome("calibrated", 0, 0, 500, 0.05, 0.9, 3000)


def candidate(n_wrong: int, *, is_known: bool = True) -> Candidate:
    """Return 1,000 validation images and 3,000 others of equal confidence.

    The model is wrong about `n_wrong` of the others, and the same share of the validation images if
    `is_known`.
    """
    is_right = np.ones(4000, bool)
    is_right[1000 : 1000 + n_wrong] = False
    if is_known:
        is_right[: n_wrong // 3] = False
    confidence = np.full(4000, 0.9, np.float32)
    return Candidate(confidence, is_right, is_right, np.arange(1000), np.arange(1000, 4000))


@pytest.mark.parametrize(
    ("annotations", "is_accepted"),
    [((1, 0, 0), True), ((0, 1, 1), True), ((0, 1, 0), False), ((0, 0, 1), False)],
)
def test_two_people_can_overrule_the_first_who_differs_from_the_model(
    annotations: tuple[int, ...], is_accepted: bool
) -> None:
    assert accepted(np.array([1]), np.array([annotations])).tolist() == [is_accepted]


def test_people_stop_at_the_error_that_is_one_too_many() -> None:
    assert judge(np.array([True, False, True, False, True]), 2) == (5, True)
    assert judge(np.array([True, False, True, False, True]), 1) == (4, False)
    assert judge(np.array([False, True]), 0) == (1, False)


def test_a_model_without_errors_labels_everything_but_the_sample_at_the_first_try() -> None:
    outcome = run_tries(candidate(0), BEFORE, np.random.default_rng(0))
    assert outcome.n_tries == 1
    assert outcome.n_asked == outcome.n_sample
    assert outcome.n_by_model == 3000 - outcome.n_sample
    assert (outcome.n_wrong, outcome.n_allowed_wrong) == (0, int(0.05 * outcome.n_by_model))
    assert outcome.n_sample in [sample_size(3000, 0.05, c, share_of(0)) for c in range(10)]


def test_a_model_that_validation_overrates_fails_twice_and_labels_nothing() -> None:
    outcome = run_tries(candidate(1500, is_known=False), BEFORE, np.random.default_rng(0))
    assert (outcome.n_tries, outcome.n_by_model) == (2, 0)
    assert 2 <= outcome.n_asked < outcome.n_sample


def test_a_weak_model_is_not_tried() -> None:
    outcome = run_tries(candidate(600), BEFORE, np.random.default_rng(0))
    assert outcome == BEFORE


def test_only_images_that_are_neither_asked_nor_held_out_are_labeled_by_the_model() -> None:
    truth = np.arange(60) % 3
    probs = np.eye(3, dtype=np.float32)[truth] * 0.7 + 0.1
    pool = HiddenPool(tuple(map(str, range(60))), np.zeros((60, 1), np.float32), truth, 3, None)
    model = TrainedModel(np.arange(10), np.arange(10, 40), probs)
    made = make_candidate(model, pool, Condition("few", n_validation=20), 0)
    assert made.held_out.tolist() == list(range(10, 30))
    assert made.unlabeled.tolist() == list(range(40, 60))
    assert made.is_right.all()
    conditions = {outcome.condition for outcome in run_conditions(model, pool, 0, 0)}
    assert "calibrated" in conditions
    assert "real annotations" not in conditions  # there are none


def test_the_table_averages_over_all_runs_and_counts_broken_promises() -> None:
    passed = replace(
        BEFORE,
        n_tries=1,
        pass_probability=0.8,
        n_sample=100,
        n_by_model=600,
        n_wrong=36,
        n_allowed_wrong=30,
    )
    table = summarize([passed, BEFORE])
    assert table.splitlines()[2] == (
        "| calibrated | 500 | 90.0% | 5% | 1 of 2 | 1 | 80% | 100 | 10.0% | 6.0% | 1 of 2 |"
    )
