"""Choose the numbers of labels at which a simulation trains a version."""

from __future__ import annotations

from scripts.research.budgets import training_points


def test_versions_are_trained_at_every_budget_and_between_budgets_that_are_far_apart() -> None:
    # From 8 to 27, two steps would each multiply the labels by 1.84, so there are three of 1.5.
    assert training_points([8, 27, 30]) == (8, 12, 18, 27, 30)


def test_the_first_version_is_trained_on_the_seed_labels() -> None:
    assert training_points([10, 40, 60], seed_labels=40) == (40, 60)
    assert training_points([10, 30], seed_labels=20) == (20, 30)


def test_no_number_of_labels_is_repeated_if_rounding_makes_two_equal() -> None:
    assert training_points([2, 3, 4, 5]) == (2, 3, 4, 5)
