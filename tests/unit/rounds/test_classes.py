"""Follow the classes of the label config."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.base.classes import ClassList, append_new
from backend.base.labeling import Annotation, Task, TaskReading
from backend.images.known_labels import true_labels
from backend.rounds import batches
from backend.rounds.classes import (
    current_labels,
    follow_classes,
    left_out_notices,
    pool_class_notice,
    rename_classes,
)
from backend.rounds.loop import Loop
from backend.rounds.scoring import pool_probs
from backend.store.project_db import reading
from backend.store.project_record import ProjectRecord, project_root, read_record, write_record
from backend.store.project_store import ProjectStore
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import (
    annotation,
    ask_and_annotate,
    quiet,
    refit,
    seed,
    train,
    with_settings,
)
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
        'project 7: The label config no longer offers "cat"; the model stops predicting removed '
        "classes.",
        'project 7: 2 annotations of the class "cat", which the label config does not offer, '
        "cannot be used. If the class was renamed, run `python -m scripts.setup_project "
        '--title "T" --rename "cat=<new name>"`. To use the annotations as they are, add the class '
        "to the label config again.",
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
        ("ours", 'run `python -m scripts.setup_project --title "T"` to extend the label config'),
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
        "The validation images stay the same, and may include none of the new class."
    )


def test_annotations_get_the_names_of_current_classes() -> None:
    classes = ClassList(("cat", "dog"), ("Dog", "emu"), ())
    given = {1: [annotation("a", label) for label in ("cat", "dog", None)]}
    assert [a.label for a in current_labels(given, classes)[1]] == [None, "Dog", None]


def test_labels_that_count_again_are_trained_on_at_once(root: Path) -> None:
    annotate(root, annotation("a", "frog"), annotation("a", "cat"))
    followed(root, "cat", "dog", "emu")
    assert ProjectStore(root).facts().train_asked_at == 0  # nothing is labeled as an emu
    followed(root, "cat", "dog", "emu", "frog")
    assert ProjectStore(root).facts().train_asked_at > 0


def test_a_former_name_counts_for_the_name_that_was_given_last(root: Path) -> None:
    annotate(root, annotation("a", "cat"), annotation("a", "dog"))
    followed(root, "kitten", "feline", "dog")
    for name in ("kitten", "feline"):
        found = rename_classes(root, [("Cat", name)])
        assert found is not None
        assert found.renamed_classes == (("Cat", name),)
        assert found.class_list.spell("cat") == name
    assert ProjectStore(root).facts().train_asked_at > 0


# Rounds over digits while the classes change


def with_choices(loop: Loop, project: OracleProject, *choices: str, **changes: Any) -> Loop:
    """Return the loop as a job opens it after the label config has changed."""
    project.choices = choices
    pool = replace(loop.pool, classes=append_new(loop.pool.classes, choices))
    return replace(loop, pool=pool, choices=choices, **changes)


def how_asked(loop: Loop) -> dict[str, str]:
    with reading(loop.root) as db:
        return dict(db.execute("SELECT image_id, strategy FROM own_asked"))


def test_a_new_class_is_looked_for_until_it_is_labeled_and_the_next_head_knows_it(
    loop: Loop, project: OracleProject
) -> None:
    loop = with_settings(loop, strategy="margin")
    seed(loop, project)
    train(loop)
    project.answer_open_tasks(true_labels(loop.pool))
    wider = with_choices(loop, project, "new", *loop.choices)
    assert pool_probs(wider, wider.registry.read_meta("r0001"), quiet)[:, 10].max() == 0
    before = how_asked(wider).keys()
    batches.top_up(wider)
    asked = {i: by for i, by in how_asked(wider).items() if i not in before}
    assert Counter(asked.values()) == {"typiclust": 5, "margin": 5}
    labels = true_labels(loop.pool)
    project.answer_open_tasks(dict.fromkeys(asked, "new"))
    head = refit(wider)
    assert head.classes == (*loop.pool.classes, "new")
    assert head.labels_per_class["new"] == 10
    assert head.gate is not None  # it was compared with a version of ten classes
    wider.registry.promote(head.version)
    before = how_asked(wider).keys()
    batches.top_up(wider)
    assert {by for i, by in how_asked(wider).items() if i not in before} == {"margin"}
    project.answer_open_tasks(labels)
    assert train(wider).classes == head.classes
    wider.registry.promote("r0001")  # which does not know the new class
    ask_and_annotate(wider, project)
    assert refit(wider).labels_per_class["new"] == 10


def test_a_removed_class_is_neither_learned_nor_predicted_and_its_annotations_are_counted(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    n_threes = sum(task.label == "3" for task in project.by_task.values())
    fewer = with_choices(loop, project, *(name for name in loop.choices if name != "3"))
    meta = train(fewer)
    assert meta.left_out == {"removed class": n_threes}
    assert meta.labels_per_class.keys() == set(fewer.choices)
    for version in ("r0001", "r0002"):
        probs = pool_probs(fewer, fewer.registry.read_meta(version), quiet)
        assert probs[:, 3].max() == 0
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    predicted = [found["r0002"].label for found in project.predictions.values() if "r0002" in found]
    assert predicted
    assert "3" not in predicted
    back = with_choices(fewer, project, *loop.choices)
    assert train(back).labels_per_class["3"] == n_threes


def test_the_annotations_of_a_renamed_class_train_the_new_name(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    first = train(loop)
    names = tuple("three" if name == "3" else name for name in loop.choices)
    renamed = with_choices(loop, project, *names, renamed_classes=(("3", "three"),))
    second = train(renamed)
    assert second.left_out == {}
    assert second.labels_per_class["three"] == first.labels_per_class["3"]
    probs = pool_probs(renamed, renamed.registry.read_meta("r0001"), quiet)
    assert probs[:, 3].max() == 0
    np.testing.assert_allclose(probs[:, 10], pool_probs(loop, first, quiet)[:, 3], atol=1e-6)
