"""Ignore the tasks that people created in a project that we created."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.labeling import Annotation, Asked, Task, TaskReading
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore


def reading(
    task_id: int, image_id: str, label: str | None = None, *, is_unmarked: bool = True
) -> TaskReading:
    """Return a task as it is read: with annotation 10 + task_id if a label is given, else open."""
    given = (
        Annotation(
            10 + task_id, task_id, image_id, 2, label, was_skipped=False, updated_at="2026-01-01"
        ),
    )
    task = Task(task_id, image_id, is_open=label is None, awaits_second_opinion=False)
    return TaskReading(task, "2026-01-01", given if label else (), None, is_unmarked=is_unmarked)


@pytest.fixture
def store(tmp_path: Path) -> ProjectStore:
    """Return a store with two of our tasks; the first is annotated and learned."""
    store = ProjectStore(project_root(tmp_path, 7))
    own = [reading(1, "a", "cat", is_unmarked=False), reading(2, "b", is_unmarked=False)]
    store.record_asked([Asked(i, round=0, strategy="random", version="") for i in ("a", "b")])
    store.record_tasks(own, 10.0)
    store.record_learned({11: "cat"}, 11.0)
    return store


def test_foreign_tasks_are_neither_open_nor_queried(store: ProjectStore) -> None:
    store.record_tasks([reading(3, ""), reading(4, "theirs"), reading(5, "", "dog")], 12.0)
    assert (store.n_open(), [task.task_id for task in store.tasks()]) == (1, [1, 2])
    assert (store.counts().tasks, store.counts().open) == (2, 1)
    assert (store.n_foreign_open(), store.foreign_tasks()) == (2, {3, 4, 5})
    assert store.n_tasks() == 5  # as in Label Studio, so nothing seems to be deleted
    assert store.counts().annotations == 2  # all annotations in Label Studio


def test_annotating_changing_and_deleting_foreign_tasks_changes_nothing(
    store: ProjectStore,
) -> None:
    revision = store.facts().revision
    for label in (None, "cat", "dog"):
        store.record_tasks([reading(3, "", label), reading(4, "theirs", label)], 12.0)
        assert store.new_annotations() == (0, None)
    assert store.label_counts() == {"cat": 1}
    store.forget_tasks([3], 13.0)
    store.record_tasks([reading(1, "a", "cat", is_unmarked=False)], 14.0)
    store.record_tasks([reading(2, "b", is_unmarked=False)], 14.0)
    store.record_reading(14.0, is_full=True)  # which no longer finds task 4
    assert store.foreign_tasks() == set()
    assert (store.new_annotations(), store.facts().revision) == ((0, None), revision)


def test_deleting_a_foreign_task_that_an_earlier_release_has_learned_changes_nothing(
    store: ProjectStore,
) -> None:
    store.record_tasks([reading(3, "", "cat")], 12.0)
    store.record_learned({11: "cat", 13: "cat"}, 12.0)
    store.forget_tasks([3], 13.0)
    assert store.new_annotations() == (0, None)


def test_an_adopted_image_counts_as_ours_from_then_on(store: ProjectStore) -> None:
    store.record_tasks([reading(3, "c", "dog"), reading(4, "d"), reading(5, "theirs")], 12.0)
    assert store.foreign_images() == {"c", "d", "theirs"}
    revision = store.facts().revision
    store.adopt_images(["d"])
    assert store.facts().revision == revision  # nobody has annotated its task
    store.adopt_images(["c"])
    assert store.facts().revision == revision + 1
    assert store.new_annotations() == (1, 12.0)
    store.record_tasks([reading(3, "c", "cat"), reading(4, "d"), reading(6, "d", "cat")], 13.0)
    assert store.foreign_images() == {"theirs"}
    assert store.new_annotations() == (2, 13.0)


def test_open_copies_of_queried_images_are_not_open_tasks(store: ProjectStore) -> None:
    store.record_tasks([reading(3, "a"), reading(4, "b"), reading(5, "b")], 12.0)
    assert (store.n_open(), store.copies()) == (1, [3, 4, 5])
    store.record_tasks([reading(5, "b", "dog")], 13.0)
    assert store.n_open() == 0  # the image has a label now
    assert store.copies() == [2, 3, 4]
