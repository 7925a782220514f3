"""Test when the model's label for a sampled image counts as right, on tables checked by hand."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from backend.base.labeling import Annotation, DeletedSkip, Task
from backend.people.acceptance_labels import decide_acceptance, is_right
from backend.people.validation_labels import PENDING, UNDECIDED, Outcome
from tests.unit.people.test_second_opinions import annotate

CLASSES = {"cat", "dog", "frog"}
RIGHT, WRONG = Outcome("decided", "cat"), Outcome("decided", "dog")
SECOND, THIRD = Outcome("pending", reopen_for=2), Outcome("pending", reopen_for=3)


def outcome(
    *given: Annotation,
    active: Iterable[int] = (7, 8, 9),
    is_open: bool = False,
    deleted: Iterable[int] = (),
    may_reopen: bool = True,
) -> Outcome:
    """Decide task 1, which the model labeled as a cat."""
    task = Task(1, "i1", is_open=not given, awaits_second_opinion=is_open)
    skips = [DeletedSkip(annotation_id, "i1", 7) for annotation_id in deleted]
    return decide_acceptance(task, given, skips, set(active), CLASSES, "cat", may_reopen=may_reopen)


def skip(annotator: int) -> Annotation:
    return annotate(1, annotator, was_skipped=True)


def test_an_image_that_no_one_has_seen_is_pending() -> None:
    assert outcome() == PENDING
    assert is_right(PENDING, "cat") is None


def test_the_first_person_who_chooses_the_models_label_decides() -> None:
    assert outcome(annotate(1, 7)) == RIGHT
    assert outcome(annotate(1, 7), is_open=True) == RIGHT  # the team asks for two annotations
    assert is_right(RIGHT, "cat") is True


def test_a_second_person_looks_at_a_seeming_error_and_a_third_if_they_differ() -> None:
    one, two = annotate(1, 7, "dog"), annotate(1, 8)
    assert outcome(one) == SECOND
    assert outcome(one, is_open=True) == PENDING
    assert outcome(one, two) == THIRD
    assert outcome(one, two, is_open=True) == PENDING
    assert outcome(one, two, annotate(1, 9)) == RIGHT
    assert outcome(one, two, annotate(1, 9, "dog")) == WRONG
    assert is_right(WRONG, "cat") is False


@pytest.mark.parametrize("second", ["dog", "frog"])
def test_two_people_who_both_reject_the_models_label_need_no_third(second: str) -> None:
    found = outcome(annotate(1, 7, "dog"), annotate(1, 8, second))
    assert found == (WRONG if second == "dog" else UNDECIDED)
    assert is_right(found, "cat") is False


def test_a_seeming_error_is_an_error_if_no_second_person_can_be_asked() -> None:
    assert outcome(annotate(1, 7, "dog"), active=(7,)) == WRONG
    assert outcome(annotate(1, 7, "dog"), active=()) == WRONG
    assert outcome(annotate(1, 7, "dog"), may_reopen=False) == WRONG
    assert outcome(annotate(1, 7, "dog"), skip(8), active=(7, 8)) == WRONG


def test_two_people_who_differ_leave_the_image_undecided_if_no_third_can_be_asked() -> None:
    two = (annotate(1, 7, "dog"), annotate(1, 8))
    assert outcome(*two, active=(7, 8)) == UNDECIDED
    assert outcome(*two, may_reopen=False) == UNDECIDED
    assert is_right(UNDECIDED, "cat") is False


def test_three_different_labels_and_a_tie_of_four_are_errors() -> None:
    three = (annotate(1, 7), annotate(1, 8, "dog"), annotate(1, 9, "frog"))
    assert outcome(*three, active=(7, 8, 9, 10)) == UNDECIDED
    four = (annotate(1, 7), annotate(1, 8, "dog"), annotate(1, 9), annotate(1, 10, "dog"))
    assert outcome(*four, active=(7, 8, 9, 10, 11)) == UNDECIDED


def test_a_later_contradiction_of_a_right_label_is_looked_at_by_a_third() -> None:
    assert outcome(annotate(1, 7), annotate(1, 8, "dog"), is_open=True) == PENDING


def test_ground_truth_decides_at_once() -> None:
    truth = annotate(1, 9, "dog", is_truth=True)
    assert outcome(annotate(1, 7), annotate(1, 8), truth) == WRONG
    assert outcome(annotate(1, 7, "dog"), annotate(1, 9, is_truth=True)) == RIGHT


def test_an_annotator_may_correct_the_label() -> None:
    assert outcome(annotate(1, 7, "dog", at=1), annotate(1, 7, at=2)) == RIGHT


def test_a_skip_is_asked_again_and_a_second_skip_is_an_error() -> None:
    assert outcome(skip(7)) == PENDING  # the others may still get it
    assert outcome(skip(7), active=(7,)) == Outcome("pending", skip=skip(7))
    assert outcome(skip(7), active=(7,), deleted=(1,)) == UNDECIDED
    assert outcome(skip(7), skip(8)) == UNDECIDED
    assert outcome(skip(7), active=(7,), may_reopen=False) == UNDECIDED
    assert outcome(skip(7), annotate(1, 8)) == RIGHT


@pytest.mark.parametrize("label", [None, "horse"])
def test_an_empty_annotation_and_a_class_that_is_not_current_are_errors(label: str | None) -> None:
    assert outcome(annotate(1, 7, label)) == UNDECIDED


def test_a_label_from_the_data_set_decides_unless_a_person_has_annotated_the_image() -> None:
    assert outcome(annotate(1, None, "dog")) == WRONG
    assert outcome(annotate(1, None)) == RIGHT
    assert outcome(annotate(1, None, "dog"), annotate(1, 7)) == RIGHT
    assert outcome(annotate(1, None, "horse")) == PENDING
