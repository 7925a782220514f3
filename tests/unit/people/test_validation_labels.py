"""Test how annotations decide the label of a validation image, on tables checked by hand."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from backend.base.labeling import DELETED, Annotation, DeletedSkip, Task
from backend.people.validation_labels import (
    PENDING,
    UNDECIDED,
    Outcome,
    decide_label,
    decide_labels,
)
from tests.unit.people.test_second_opinions import annotate

CLASSES = {"cat", "dog", "frog"}
CAT, THIRD = Outcome("decided", "cat"), Outcome("pending", reopen_for=3)


def outcome(
    *given: Annotation,
    active: Iterable[int] = (7,),
    is_open_to_more: bool = False,
    deleted: Iterable[int] = (),
    may_reopen: bool = True,
) -> Outcome:
    """Decide task 1; `deleted` lists the annotation ids of deleted skips."""
    task = Task(1, "i1", is_open=not given, awaits_second_opinion=is_open_to_more)
    skips = [DeletedSkip(annotation_id, "i1", 7) for annotation_id in deleted]
    return decide_label(task, given, skips, set(active), CLASSES, may_reopen=may_reopen)


def skip(annotator: int) -> Annotation:
    return annotate(1, annotator, was_skipped=True)


def test_an_image_that_no_one_has_seen_is_pending() -> None:
    assert outcome() == PENDING


def test_the_answer_of_a_lone_annotator_decides() -> None:
    assert outcome(annotate(1, 7)) == CAT


def test_the_answer_to_a_task_for_one_stays_decided_when_others_join() -> None:
    assert outcome(annotate(1, 7), active=(7, 8, 9)) == CAT


def test_a_task_that_may_not_be_reopened_is_decided_by_the_annotators_it_has() -> None:
    def settled(*given: Annotation, active: Iterable[int] = (7, 8, 9)) -> Outcome:
        return outcome(*given, active=active, may_reopen=False)

    assert settled(annotate(1, 7)) == CAT
    assert settled(annotate(1, 7), annotate(1, 8, "dog")) == UNDECIDED
    assert settled(annotate(1, 7), annotate(1, 8, "dog"), annotate(1, 9)) == CAT
    assert settled(skip(7)) == PENDING  # still open to the others
    assert settled(skip(7), active=(7,)) == UNDECIDED


def test_a_project_that_asks_for_two_annotations_is_waited_for_although_none_may_be_reopened() -> (
    None
):
    one = annotate(1, 7)
    assert outcome(one, active=(7, 8), is_open_to_more=True, may_reopen=False) == PENDING
    assert outcome(one, active=(7,), is_open_to_more=True, may_reopen=False) == CAT


def test_a_task_for_two_waits_for_the_second_annotator() -> None:
    assert outcome(annotate(1, 7), active=(7, 8), is_open_to_more=True) == PENDING
    assert outcome(annotate(1, 7), annotate(1, 8), active=(7, 8)) == CAT


def test_a_task_for_two_is_decided_by_one_if_the_other_has_left_or_skipped() -> None:
    assert outcome(annotate(1, 7), active=(7,), is_open_to_more=True) == CAT
    assert outcome(annotate(1, 7), skip(8), active=(7, 8), is_open_to_more=True) == CAT


def test_a_third_annotator_is_asked_if_two_differ_and_the_majority_decides() -> None:
    two = (annotate(1, 7), annotate(1, 8, "dog"))
    assert outcome(*two, active=(7, 8, 9)) == THIRD
    assert outcome(*two, active=(7, 8, 9), is_open_to_more=True) == PENDING
    assert outcome(*two, annotate(1, 9), active=(7, 8, 9, 10)) == CAT


def test_annotators_who_differ_leave_the_image_undecided_if_no_third_is_left() -> None:
    assert outcome(annotate(1, 7), annotate(1, 8, "dog"), active=(7, 8)) == UNDECIDED


def test_three_different_answers_leave_the_image_undecided() -> None:
    three = (annotate(1, 7), annotate(1, 8, "dog"), annotate(1, 9, "frog"))
    assert outcome(*three, active=(7, 8, 9, 10)) == UNDECIDED


def test_a_tie_of_two_against_two_leaves_the_image_undecided() -> None:
    four = (annotate(1, 7), annotate(1, 8, "dog"), annotate(1, 9), annotate(1, 10, "dog"))
    assert outcome(*four, active=(7, 8, 9, 10, 11)) == UNDECIDED


def test_a_task_that_label_studio_offers_to_no_one_is_decided() -> None:
    twice = (annotate(1, 7), annotate(1, 7, "dog", at=1))
    assert outcome(*twice, active=(7, 8), is_open_to_more=True) == Outcome("decided", "dog")


def test_the_latest_annotation_of_an_annotator_counts() -> None:
    assert outcome(annotate(1, 7, "dog", at=1), annotate(1, 7, at=2)) == CAT
    assert outcome(annotate(1, 7, at=2), annotate(1, 7, "dog", at=1)) == CAT


def test_ground_truth_decides_against_any_majority() -> None:
    truth = annotate(1, 9, is_truth=True)
    assert outcome(annotate(1, 7, "dog"), annotate(1, 8, "dog"), truth, active=(7, 8)) == CAT
    assert outcome(truth, active=(7, 8), is_open_to_more=True) == CAT


@pytest.mark.parametrize("label", [None, "horse"])
def test_a_label_from_the_data_set_and_an_unusable_label_decide_nothing(label: str | None) -> None:
    assert outcome(annotate(1, None)) == PENDING
    assert outcome(annotate(1, 7, label)) == UNDECIDED


def test_the_answer_of_a_deleted_account_counts() -> None:
    assert outcome(annotate(1, DELETED), active=(7,)) == CAT


def test_the_skip_of_a_lone_annotator_is_deleted_so_that_the_image_is_asked_once_more() -> None:
    assert outcome(skip(7)) == Outcome("pending", skip=skip(7))
    assert outcome(skip(7)).must_ask
    assert outcome(deleted=[107]) == PENDING


def test_a_second_skip_leaves_the_image_undecided() -> None:
    assert outcome(skip(7), deleted=[55]) == UNDECIDED
    assert outcome(skip(7), skip(8), active=(7, 8, 9)) == UNDECIDED


def test_a_skip_that_could_not_be_deleted_counts_once() -> None:
    assert outcome(skip(7), deleted=[107]) == Outcome("pending", skip=skip(7))


def test_a_skipped_image_waits_for_the_other_annotators() -> None:
    assert outcome(skip(7), active=(7, 8)) == PENDING


def test_an_answer_after_a_skip_decides() -> None:
    assert outcome(annotate(1, 7), deleted=[55]) == CAT
    assert outcome(skip(7), annotate(1, 8), active=(7, 8)) == CAT


def test_every_task_gets_the_skips_of_its_own_image() -> None:
    tasks = [
        Task(n, f"i{n}", is_open=n == 2, awaits_second_opinion=False)  # task 2 was skipped once
        for n in (1, 2)
    ]
    annotations = {1: [annotate(1, 7)]}
    skips = [DeletedSkip(55, "i2", 7), DeletedSkip(56, "i2", 7)]
    assert decide_labels(tasks, annotations, skips, {7}, CLASSES) == {1: CAT, 2: UNDECIDED}
