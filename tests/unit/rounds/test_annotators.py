"""Figures of annotators that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.base.labeling import VALIDATION, Asked, DeletedSkip, Task, TaskReading
from backend.rounds.annotators import annotator_figures
from backend.rounds.loop import Loop
from backend.rounds.validation import read_sample
from tests.unit.rounds.conftest import (
    NAMES,
    PEOPLE,
    SURELY_CAT,
    annotation,
    ask,
    by_task,
    figures,
    read,
)


def test_an_annotators_figures_count_that_annotators_work(animals: Loop) -> None:
    ask(animals, "cdhi", SURELY_CAT)
    rows = figures(
        animals,
        # The labels of a, b and c are Dog, Cat and Frog.
        annotation("a", "Cat", 1, seconds=2.0),
        annotation("a", "Dog", 2),
        annotation("a", "Dog", 3),
        annotation("b", "Cat", 1, seconds=9.0),
        annotation("b", "Cat", 2),
        annotation("c", "Frog", 1),
        annotation("d", "Cat", 1, seconds=4.0, accepted_guess=True),
        annotation("h", "Cat", 1),
        annotation("e", "unicorn", 1, seconds=100.0),
        annotation("e", "Cat", 2),
        annotation("f", None, 1, seconds=100.0, was_skipped=True),
        annotation("g", "Cat", None),
        annotation("i", "Dog", 1, is_ground_truth=True),
        annotation("i", "Cat", 2),
    )
    assert rows.keys() == {"Ada", "Bo", "Cy"}
    ada, bo = rows["Ada"], rows["Bo"]
    assert (ada.answers, ada.skipped, ada.median_seconds) == (6, 1, 4.0)
    assert ada.agreement == 1 / 2  # a and b have other annotations; i is Ada's own ground truth
    assert (ada.guesses_taken, ada.guesses_right) == (1 / 3, 2 / 3)
    # Like Ada, Bo was shown a prediction only with i.
    assert (bo.answers, bo.agreement, bo.guesses_taken, bo.median_seconds) == (4, 2 / 3, 0.0, None)
    assert (rows["Cy"].guesses_shown, rows["Cy"].guesses_taken) == (0, None)


def test_a_prediction_over_unknown_classes_is_neither_right_nor_wrong(animals: Loop) -> None:
    ask(animals, "a", (0.9, 0.1, 0.0, 0.0))
    rows = figures(animals, annotation("a", "Cat"))
    assert rows["Ada"].guesses_right is None


def test_the_least_reliable_annotators_come_first_and_unrated_ones_last(animals: Loop) -> None:
    shared = "abcdefghijklmnopqrst"
    ask(animals, shared, SURELY_CAT)
    careless = [annotation(i, "Frog", 1) for i in shared]
    careful = [annotation(i, "Cat", by) for i in shared for by in (2, 4)]
    rows = figures(animals, annotation("u", "Dog", 3), *careful, *careless)
    order = list(rows)
    assert (order[0], order[-1]) == ("Ada", "Cy")
    qualities = [row.quality for row in rows.values()]
    assert qualities[-1] is None
    assert [q for q in qualities if q is not None] == sorted(q for q in qualities if q is not None)
    assert rows["Ada"].quality is not None
    assert rows["Ada"].quality < 0.5


def test_the_quality_interval_counts_only_images_with_several_annotations(
    animals: Loop,
) -> None:
    shared = [annotation(i, "Cat", by) for i in "abcdefghij" for by in (1, 2)]
    given = (*shared, *(annotation(i, "Cat") for i in "klmnopqrst"))
    reading = read(animals, *given)
    known = replace(reading, consensus=replace(reading.consensus, annotators={1: 0.8}))
    ada = annotator_figures(by_task(given), known, NAMES, PEOPLE)[0]
    assert (ada.annotator, ada.answers) == (1, 20)
    assert (ada.quality_low, ada.quality_high) == pytest.approx((0.490, 0.943), abs=0.001)


def test_an_annotator_who_left_label_studio_is_still_reported(animals: Loop) -> None:
    rows = figures(animals, annotation("a", "Cat", 8), annotation("b", "Cat", 1))
    assert rows.keys() == {"Ada", "person 8 (no longer in Label Studio)"}


def test_annotations_of_the_validation_sample_count_except_for_the_quality(animals: Loop) -> None:
    # The labels of v and w are Cat and undecided; x awaits its first annotation.
    of_sample = [
        annotation("v", "Cat", 1, seconds=2.0),
        annotation("v", "Cat", 2),
        annotation("v", "Dog", 3),
        annotation("w", "Cat", 1, at=2, seconds=4.0),
        annotation("w", "Dog", 2),
    ]
    of_sample = [replace(a, annotation_id=n) for n, a in enumerate(of_sample)]
    asked = [Asked(i, 0, VALIDATION, "") for i in "vwx"]
    animals.store.record_asked(asked)
    animals.store.record_tasks(
        [
            TaskReading(
                Task(ord(i), i, is_open=i == "x", awaits_second_opinion=False),
                "2026",
                tuple(a for a in of_sample if a.image_id == i),
                None,
            )
            for i in "vwx"
        ],
        0.0,
    )
    animals.store.record_deleted_skip(DeletedSkip(50, "x", 1))
    animals.store.record_deleted_skip(DeletedSkip(51, "x", 8))
    given = (*of_sample, annotation("a", "Cat", 1), annotation("a", "Cat", 2))
    reading = read(animals, *given)
    known = replace(reading, consensus=replace(reading.consensus, annotators={1: 0.8, 2: None}))
    sample = read_sample(animals)
    assert sample.labels == {"v": "Cat"}
    rows = {r.annotator: r for r in annotator_figures(by_task(given), known, NAMES, PEOPLE, sample)}
    assert (rows[1].answers, rows[1].skipped, rows[1].median_seconds) == (3, 1, 3.0)
    assert [rows[by].agreement for by in (1, 2, 3)] == [1.0, 1.0, 0.0]
    alone = annotator_figures(by_task(given[-2:]), known, NAMES, PEOPLE)[0]
    assert (rows[1].quality_low, rows[1].quality_high) == (alone.quality_low, alone.quality_high)
    assert (rows[8].answers, rows[8].skipped, rows[8].agreement) == (0, 1, None)
