"""Which answered images another person is asked: over tables that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backend.base.labeling import DELETED, Annotation
from backend.people.consensus import Answer
from backend.people.second_opinions import (
    MAX_ANSWERS,
    RECENT_ANSWERS,
    Answered,
    active_annotators,
    find_answered,
    most_doubtful,
    too_few,
    was_answered_twice,
)


def said(
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


def test_what_somebody_answered_can_be_asked_another_person() -> None:
    annotations = {2: [said(2, 7), said(2, 8)], 1: [said(1, 7)], 3: []}
    assert find_answered(annotations, POOL) == [
        Answered(1, "i1", 1, frozenset({7})),
        Answered(2, "i2", 2, frozenset({7, 8})),
    ]


def test_what_is_settled_was_only_skipped_or_is_not_the_pools_is_not_asked_again() -> None:
    annotations = {
        1: [said(1, 7, label=None)],
        2: [said(2, 7, is_truth=True)],
        3: [said(3, None)],
        4: [said(4, 7, was_skipped=True)],
        5: [said(5, 8)],
        6: [replace(said(6, 8), image_id="")],
    }
    assert [a.task_id for a in find_answered(annotations, POOL)] == [5]


def test_a_task_that_one_person_answered_twice_is_not_asked_again() -> None:
    twice = [said(1, 7), said(1, 7, at=1)]
    assert was_answered_twice(twice)
    assert find_answered({1: twice, 2: [said(2, 7), said(2, 8)]}, POOL) == [
        Answered(2, "i2", 2, frozenset({7, 8}))
    ]
    assert not was_answered_twice([said(1, 7), said(1, 7, was_skipped=True)])


def test_whoever_skipped_an_image_has_been_asked_it() -> None:
    [found] = find_answered({1: [said(1, 7), said(1, 8, was_skipped=True)]}, POOL)
    assert found == Answered(1, "i1", 1, frozenset({7, 8}))


def test_whoever_was_deleted_or_only_settles_images_is_not_waited_for() -> None:
    annotations = {1: [said(1, 7)], 2: [said(2, DELETED)], 3: [said(3, 8, is_truth=True)]}
    assert active_annotators(annotations) == {7}


def test_people_who_gave_none_of_the_last_answers_have_left() -> None:
    left = {1: [said(1, 9, at=0)]}
    here = {n: [said(n, 7, at=n)] for n in range(2, RECENT_ANSWERS + 1)}
    assert active_annotators({**left, **here}) == {7, 9}
    here[RECENT_ANSWERS + 1] = [said(RECENT_ANSWERS + 1, 8, at=RECENT_ANSWERS + 1)]
    assert active_annotators({**left, **here}) == {7, 8}


UNSURE, SURE = [0.34, 0.33, 0.33], [0.98, 0.01, 0.01]


def doubtful(
    labels: list[int],
    new: list[list[float]],
    count: int,
    *,
    n_people: int = 1,
    active: frozenset[int] = frozenset({7, 8}),
) -> list[int]:
    """Of images that the model is sure are of class 0, one answer each, those to ask again."""
    answered = [Answered(n, f"i{n}", n_people, frozenset({7})) for n in range(len(labels))]
    answers = [Answer(f"i{n}", 7, label, "2026") for n, label in enumerate(labels)]
    probs = {f"i{n}": np.array(SURE, np.float32) for n in range(len(labels))}
    chosen = most_doubtful(answered, answers, probs, np.array(new, np.float32), active, count)
    return [a.task_id for a in chosen]


def test_an_answer_that_the_model_doubts_is_asked_again_before_an_image_it_is_sure_of() -> None:
    assert doubtful([0, 0, 1, 0], [SURE] * 10, 4) == [2]


def test_new_images_that_the_model_is_unsure_of_come_before_answers_that_it_shares() -> None:
    assert doubtful([0, 0, 0, 0], [UNSURE] * 10, 4) == []


def test_at_most_half_of_a_batch_is_asked_again_so_that_nobody_runs_out_of_new_images() -> None:
    assert doubtful([1, 1, 1, 1, 1], [SURE] * 10, 4) == [0, 1]


def test_where_few_new_images_are_left_second_opinions_take_their_place_until_none_is() -> None:
    assert doubtful([1, 0, 1], [UNSURE], 4) == [0, 2]
    answered = [Answered(0, "i0", 1, frozenset({7}))]
    answers = [Answer("i0", 7, 1, "2026")]
    probs = {"i0": np.array(SURE, np.float32)}
    nothing = np.empty((0, 3), np.float32)
    assert most_doubtful(answered, answers, probs, nothing, {7, 8}, 4) == []


def test_nobody_is_asked_what_so_many_have_answered() -> None:
    assert doubtful([1, 1], [SURE] * 10, 4, n_people=MAX_ANSWERS) == []
    assert doubtful([1, 1], [SURE] * 10, 4, n_people=MAX_ANSWERS - 1) == [0, 1]


def test_asking_everything_twice_asks_again_what_one_person_answered() -> None:
    once = Answered(1, "a", 1, frozenset({7}))
    twice = Answered(2, "b", 2, frozenset({7, 8}))
    assert too_few([once, twice], 2) == [once]


def test_nothing_is_asked_again_that_all_active_people_have_been_asked() -> None:
    assert doubtful([1, 1], [SURE] * 10, 4, active=frozenset({7})) == []
