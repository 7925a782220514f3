"""Test who counts as an active annotator on tables that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

from backend.base.labeling import DELETED, IMPORTED_S
from backend.people.annotators import (
    RECENT_ANNOTATIONS,
    active_annotators,
    frequent_annotators,
    has_duplicate_annotations,
    people_at_work,
)
from tests.unit.people.test_second_opinions import annotate


def test_deleted_people_and_people_who_only_set_ground_truths_are_not_active() -> None:
    annotations = {
        1: [annotate(1, 7)],
        2: [annotate(2, DELETED)],
        3: [annotate(3, 8, is_truth=True)],
    }
    assert active_annotators(annotations) == {7}


def test_people_whose_annotations_were_imported_are_not_active() -> None:
    imported = replace(annotate(2, 8), seconds=IMPORTED_S)
    assert active_annotators({1: [annotate(1, 7)], 2: [imported]}) == {7}


def test_people_who_made_none_of_the_latest_annotations_are_not_active() -> None:
    left = {1: [annotate(1, 9, at=0)]}
    here = {n: [annotate(n, 7, at=n)] for n in range(2, RECENT_ANNOTATIONS + 1)}
    assert active_annotators({**left, **here}) == {7, 9}
    here[RECENT_ANNOTATIONS + 1] = [annotate(RECENT_ANNOTATIONS + 1, 8, at=RECENT_ANNOTATIONS + 1)]
    assert active_annotators({**left, **here}) == {7, 8}


def test_people_with_less_than_a_quarter_of_an_equal_share_are_not_waited_for() -> None:
    """Of 9 annotations by two people, a quarter of an equal share is 9 / 8."""
    annotations = {n: [annotate(n, 7)] for n in range(8)}
    assert frequent_annotators({}) == set()
    assert frequent_annotators({**annotations, 8: [annotate(8, 9)]}) == {7}
    del annotations[0]  # now 8 / 8
    assert frequent_annotators({**annotations, 8: [annotate(8, 9)]}) == {7, 9}


def test_people_work_at_once_if_each_annotated_shortly_before_the_latest_annotation() -> None:
    assert people_at_work({5: 100.0, 6: 110.0, 7: 170.0}, within_s=60) == {6, 7}
    assert people_at_work({5: 100.0}, within_s=60) == {5}
    assert people_at_work({}, within_s=60) == set()


def test_only_two_annotations_by_one_person_are_duplicates() -> None:
    assert has_duplicate_annotations([annotate(1, 7), annotate(1, 7, at=1)])
    assert not has_duplicate_annotations([annotate(1, 7), annotate(1, 8)])
    assert not has_duplicate_annotations([annotate(1, 7), annotate(1, 7, was_skipped=True)])
