"""Count learned annotations and the others by reason; the numbers always add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from backend.base.labeling import VALIDATION, Annotation, Asked, Task, TaskReading
from backend.rounds.annotation_use import (
    WORDS,
    count_outcomes,
    name_reasons,
    use_sentence,
    without,
)
from backend.rounds.labels import read_labels
from backend.rounds.loop import Loop
from backend.store.annotation_outcomes import AnnotationOutcomes
from tests.unit.rounds.conftest import annotation

NOON = 1_700_000_000.0


@pytest.fixture
def loop(animals: Loop) -> Loop:
    """Return the animals, after the class Bear was removed from the label config."""
    pool = replace(animals.pool, classes=("cat", "dog", "frog", "bear"))
    return replace(animals, pool=pool)


@pytest.fixture
def keep(loop: Loop) -> Callable[..., None]:
    """Return a function that records tasks with annotations, as a reading does."""

    def record(moment: float, *tasks: tuple[str, tuple[Annotation, ...], bool]) -> None:
        readings = [
            TaskReading(
                Task(ord(letter), letter, is_open=False, awaits_second_opinion=False),
                f"2026-01-01T00:{moment - NOON:02.0f}:00Z",
                tuple(
                    replace(a, annotation_id=10 * ord(letter) + n, task_id=ord(letter))
                    for n, a in enumerate(given)
                ),
                None,
                is_unmarked=is_foreign,
            )
            for letter, given, is_foreign in tasks
        ]
        loop.store.record_tasks(readings, moment)

    return record


def learn(loop: Loop) -> None:
    """Record what a version that was trained now would have learned."""
    outcomes = read_labels(loop, loop.store.annotations()).outcomes
    AnnotationOutcomes(loop.root).record(outcomes)


def total(loop: Loop) -> int:
    counts = loop.store.counts()
    return counts.annotations + counts.skipped


def test_the_numbers_add_up_with_every_reason_and_after_every_change(
    loop: Loop, keep: Callable[..., None]
) -> None:
    loop.store.record_asked([Asked("u", 1, VALIDATION, "")])
    cat, dog = annotation("a", "Cat"), annotation("a", "Dog", 2)
    keep(
        NOON,
        ("a", (cat,), False),
        ("b", (replace(cat, is_ground_truth=True), dog, replace(dog, annotator=3)), False),
        ("c", (replace(cat, label=None, was_skipped=True),), False),
        ("d", (replace(cat, label=None),), False),
        ("e", (replace(cat, label=None, is_of_other_control=True),), False),
        ("f", (replace(cat, label="Bear"), replace(cat, label="bear", annotator=2)), False),
        ("g", (replace(cat, label="Unicorn"),), False),
        ("u", (cat,), False),
        ("y", (replace(cat, image_id="y"), replace(dog, image_id="y")), False),
        ("z", (replace(cat, image_id="z"),), True),
    )
    assert count_outcomes(loop.root) == {}
    learn(loop)
    learned = {
        "learned": 2, "overruled": 2, "skipped": 1, "empty": 1, "another control": 1,
        "removed class": 2, "unknown class": 1, "validation image": 1, "not of the pool": 2,
        "foreign task": 1,
    }  # fmt: skip
    assert count_outcomes(loop.root) == learned
    assert sum(learned.values()) == total(loop) == 14
    keep(
        NOON + 1,
        ("a", (dog,), False),  # edited
        ("b", (replace(cat, is_ground_truth=True), dog), False),  # one deleted
        ("h", (cat,), False),  # added
        ("i", (replace(cat, label=None, was_skipped=True),), False),
        ("z", (replace(cat, image_id="z"), replace(dog, image_id="z")), True),
    )
    changed = Counter(learned) + Counter({"new": 2, "foreign task": 1, "skipped": 1})
    changed.subtract({"learned": 1, "overruled": 1})
    assert count_outcomes(loop.root) == dict(changed)
    assert changed.total() == total(loop) == 16
    loop.store.forget_tasks([ord(letter) for letter in "fgz"], NOON + 2)
    assert sum(count_outcomes(loop.root).values()) == total(loop) == 11
    learn(loop)
    assert "new" not in count_outcomes(loop.root)
    assert sum(count_outcomes(loop.root).values()) == 11


def test_in_an_attached_project_the_image_may_be_unavailable(
    loop: Loop, keep: Callable[..., None]
) -> None:
    loop = replace(loop, is_attached=True)
    keep(NOON, ("y", (annotation("y", "Cat"),), False), ("a", (annotation("a", "Cat"),), False))
    outcomes = read_labels(loop, loop.store.annotations()).outcomes
    AnnotationOutcomes(loop.root).record(without(outcomes, "image not available"))
    assert count_outcomes(loop.root) == {
        "learned": 1,
        "new": 1,
    }  # a head waits for the training run
    AnnotationOutcomes(loop.root).record(outcomes)
    assert count_outcomes(loop.root) == {"learned": 1, "image not available": 1}


def test_an_empty_project_has_no_outcomes(loop: Loop) -> None:
    assert count_outcomes(loop.root) == {}


def test_the_sentence_names_reasons_by_frequency_and_new_annotations_last() -> None:
    unlearned = {"new": 6, "removed class": 4, "not of the pool": 24, "skipped": 9}
    assert use_sentence(61, unlearned) == (
        "95 annotations, 61 learned: 24 of images no longer in the pool, 4 of a removed class, "
        "6 new"
    )


@pytest.mark.parametrize(
    "unlearned", [{}, {"new": 5}, {"skipped": 5}, {"validation image": 20, "new": 1}, {"empty": 0}]
)
def test_nothing_is_said_if_only_expected_annotations_are_left(unlearned: dict[str, int]) -> None:
    assert use_sentence(1234, unlearned) == ""


def test_nothing_is_said_before_annotations_are_read() -> None:
    assert use_sentence(None, {"empty": 1}) == ""


@pytest.mark.parametrize("reason", sorted(WORDS.keys() - {"new", "skipped", "validation image"}))
def test_every_other_reason_is_worded(reason: str) -> None:
    said = use_sentence(1000, {reason: 1500})
    assert said == f"2,500 annotations, 1,000 learned: 1,500 {WORDS[reason]}"


def test_a_reason_that_an_earlier_release_recorded_is_shown_as_it_is() -> None:
    assert name_reasons({"empty": 1, "moved away": 2}) == "2 moved away, 1 without a choice"
