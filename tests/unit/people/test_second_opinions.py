"""Test the choice of second opinions on tables that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backend.base.labeling import Annotation
from backend.people.consensus import ClassAnnotation
from backend.people.second_opinions import (
    MAX_ANNOTATORS,
    AnnotatedTask,
    annotated_by_fewer_than,
    choose_second_opinions,
    find_annotated,
)


def annotate(
    task_id: int,
    annotator: int | None,
    label: str | None = "cat",
    *,
    at: int = 0,
    was_skipped: bool = False,
    is_truth: bool = False,
) -> Annotation:
    return Annotation(
        annotation_id=task_id * 100 + (annotator or 0),
        task_id=task_id,
        image_id=f"i{task_id}",
        annotator=annotator,
        label=None if was_skipped else label,
        was_skipped=was_skipped,
        updated_at=f"2026-01-01T00:00:00.{at:06d}Z",
        is_ground_truth=is_truth,
    )


POOL = {f"i{n}" for n in range(1, 300)}


def test_an_annotated_task_can_be_given_to_another_person() -> None:
    annotations = {2: [annotate(2, 7), annotate(2, 8)], 1: [annotate(1, 7)], 3: []}
    assert find_annotated(annotations, POOL) == [
        AnnotatedTask(1, "i1", 1, frozenset({7})),
        AnnotatedTask(2, "i2", 2, frozenset({7, 8})),
    ]


def test_settled_skipped_and_foreign_tasks_are_left_out() -> None:
    annotations = {
        1: [annotate(1, 7, label=None)],
        2: [annotate(2, 7, is_truth=True)],
        3: [annotate(3, None)],
        4: [annotate(4, 7, was_skipped=True)],
        5: [annotate(5, 8)],
        6: [replace(annotate(6, 8), image_id="")],
    }
    assert [a.task_id for a in find_annotated(annotations, POOL)] == [5]


def test_a_task_that_one_person_annotated_twice_is_left_out() -> None:
    twice = [annotate(1, 7), annotate(1, 7, at=1)]
    assert find_annotated({1: twice, 2: [annotate(2, 7), annotate(2, 8)]}, POOL) == [
        AnnotatedTask(2, "i2", 2, frozenset({7, 8}))
    ]


def test_a_person_who_skipped_an_image_has_seen_it() -> None:
    [found] = find_annotated({1: [annotate(1, 7), annotate(1, 8, was_skipped=True)]}, POOL)
    assert found == AnnotatedTask(1, "i1", 1, frozenset({7, 8}))


UNSURE, SURE = [0.34, 0.33, 0.33], [0.98, 0.01, 0.01]


def doubtful(
    labels: list[int],
    new: list[list[float]],
    count: int,
    *,
    n_annotators: int = 1,
    active: frozenset[int] = frozenset({7, 8}),
) -> list[int]:
    """The images to ask again; each has one annotation, and the model is sure of class 0."""
    tasks = [AnnotatedTask(n, f"i{n}", n_annotators, frozenset({7})) for n in range(len(labels))]
    annotations = [ClassAnnotation(f"i{n}", 7, label, "2026") for n, label in enumerate(labels)]
    probs = {f"i{n}": np.array(SURE, np.float32) for n in range(len(labels))}
    chosen = choose_second_opinions(
        tasks, annotations, probs, np.array(new, np.float32), active, count
    )
    return [a.task_id for a in chosen]


def test_a_doubted_annotation_comes_before_a_new_image_that_the_model_is_sure_of() -> None:
    assert doubtful([0, 0, 1, 0], [SURE] * 10, 4) == [2]


def test_uncertain_new_images_come_before_annotations_that_the_model_shares() -> None:
    assert doubtful([0, 0, 0, 0], [UNSURE] * 10, 4) == []


def test_at_most_half_of_a_batch_are_second_opinions_so_that_new_images_remain() -> None:
    assert doubtful([1, 1, 1, 1, 1], [SURE] * 10, 4) == [0, 1]


def test_second_opinions_replace_missing_new_images_until_none_are_left() -> None:
    assert doubtful([1, 0, 1], [UNSURE], 4) == [0, 2]
    tasks = [AnnotatedTask(0, "i0", 1, frozenset({7}))]
    annotations = [ClassAnnotation("i0", 7, 1, "2026")]
    probs = {"i0": np.array(SURE, np.float32)}
    nothing = np.empty((0, 3), np.float32)
    assert choose_second_opinions(tasks, annotations, probs, nothing, {7, 8}, 4) == []


def test_an_image_with_enough_annotators_is_not_asked_again() -> None:
    assert doubtful([1, 1], [SURE] * 10, 4, n_annotators=MAX_ANNOTATORS) == []
    assert doubtful([1, 1], [SURE] * 10, 4, n_annotators=MAX_ANNOTATORS - 1) == [0, 1]


def test_asking_everything_twice_selects_tasks_with_one_annotator() -> None:
    once = AnnotatedTask(1, "a", 1, frozenset({7}))
    twice = AnnotatedTask(2, "b", 2, frozenset({7, 8}))
    assert annotated_by_fewer_than([once, twice], 2) == [once]


def test_images_that_all_active_people_have_seen_are_not_asked_again() -> None:
    assert doubtful([1, 1], [SURE] * 10, 4, active=frozenset({7})) == []
