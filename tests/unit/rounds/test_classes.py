"""Follow the classes of the label config."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from backend.base.classes import ClassList
from backend.base.labeling import Annotation, Task, TaskReading
from backend.rounds.classes import (
    current_labels,
    follow_classes,
    left_out_notices,
    pool_class_notice,
)
from backend.store.project_record import ProjectRecord, project_root, read_record, write_record
from backend.store.project_store import ProjectStore
from tests.unit.rounds.conftest import annotation
from tests.unit.store.test_registry import record


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set-up project with the classes cat and dog."""
    root = project_root(tmp_path, 7)
    write_record(root, record(7))
    return root


def followed(root: Path, *choices: str) -> ProjectRecord:
    found = follow_classes(root, choices)
    assert found is not None
    assert found == read_record(root)
    return found


def annotate(root: Path, *given: Annotation) -> None:
    numbered = [replace(a, annotation_id=number) for number, a in enumerate(given)]
    task = Task(1, "a", is_open=False, awaits_second_opinion=False)
    ProjectStore(root).record_tasks([TaskReading(task, "2026", tuple(numbered), None)], 1.0)


def test_an_added_class_goes_last_and_is_logged_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = followed(root, "frog", "Cat", "dog")
    assert found.classes == ("cat", "dog", "frog")
    assert caplog.messages == [
        'project 7: The label config has new classes ("frog"); the next head learns them.'
    ]


def test_a_change_of_case_or_order_changes_nothing(root: Path) -> None:
    assert followed(root, "DOG", " cat") == record(7)
    assert ProjectStore(root).facts().revision == 0


def test_a_removed_class_keeps_its_column_and_returns_to_it(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotate(root, annotation("a", "cat"), annotation("a", "cat"), annotation("a", "dog"))
    revision = ProjectStore(root).facts().revision
    with caplog.at_level(logging.WARNING):
        found = followed(root, "dog", "frog")
    assert (found.classes, found.removed_classes) == (("cat", "dog", "frog"), ("cat",))
    assert found.class_list.current == ("dog", "frog")
    assert ProjectStore(root).facts().revision == revision + 1  # so that a head is fitted
    assert caplog.messages[1:] == [
        'project 7: The label config no longer offers "cat"; the model stops predicting it.',
        'project 7: 2 annotations of the class "cat", which the label config does not offer, '
        "cannot be used. If the class was renamed, run `python -m scripts.setup_project "
        '--title "T" --rename "cat=<new name>"`; otherwise, add it to the label config '
        "again.",
    ]
    again = followed(root, "dog", "frog", "CAT")
    assert (again.classes, again.removed_classes) == (("cat", "dog", "frog"), ())
    assert caplog.messages[-1] == 'project 7: The label config offers "cat" again.'


def test_a_renamed_class_is_not_reported_as_left_out(root: Path) -> None:
    found = followed(root, "kitten", "dog")
    assert len(left_out_notices(found, {"cat": 1, "dog": 2})) == 1
    renamed = found.model_copy(update={"renamed_classes": (("cat", "kitten"),)})
    assert left_out_notices(renamed, {"cat": 1, "dog": 2}) == []


def test_a_project_that_is_not_set_up_has_no_classes_to_follow(tmp_path: Path) -> None:
    assert follow_classes(tmp_path / "p8", ("cat", "dog")) is None


@pytest.mark.parametrize(
    ("label_config", "remedy"),
    [
        ("ours", 'run `python -m scripts.setup_project --title "T"`, which adds it'),
        ("own", "add the same name to the Choices of the label config"),
    ],
)
def test_a_class_of_the_pool_that_nobody_can_choose_is_reported_with_the_remedy(
    label_config: str, remedy: str
) -> None:
    own = record(7).model_copy(update={"label_config": label_config})
    assert pool_class_notice(own, ("Cat", "dog")) == ""
    assert pool_class_notice(own, ("cat", "dog", "frog")) == (
        f'The pool has images of "frog", which annotators cannot choose yet: {remedy}. '
        "The validation images do not change, so they may contain none of the new class."
    )


def test_annotations_get_the_names_of_current_classes() -> None:
    classes = ClassList(("cat", "dog"), ("Dog", "emu"), ())
    given = {1: [annotation("a", label) for label in ("cat", "dog", None)]}
    assert [a.label for a in current_labels(given, classes)[1]] == [None, "Dog", None]
