"""Mirror annotations: count new ones, and refuse a damaged database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend.base.errors import (
    StoreError,
)
from backend.base.labeling import IMPOSSIBLE_S, Annotation, Task, TaskReading
from backend.store.project_record import (
    project_root,
)
from backend.store.project_store import ProjectStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project_root(tmp_path, 7)


DAMAGED = r"project\.db is damaged .*: restore a backup, or move it away"


def damage(root: Path, content: str) -> None:
    """Replace the database by junk."""
    for rest in root.glob("project.db*"):
        rest.unlink()
    (root / "project.db").write_text(content)


def move_away(root: Path) -> None:
    """Move a damaged database away, as its error advises."""
    (root / "project.db").rename(root / "damaged.db")


def readings(rows: Mapping[int, Sequence[Annotation]]) -> list[TaskReading]:
    """Return tasks with these annotations as read from Label Studio."""
    return [
        TaskReading(
            Task(i, "img" if given else f"img-{i}", not given, awaits_second_opinion=False),
            "2026-01-01",
            tuple(given),
            None,
        )
        for i, given in rows.items()
    ]


def annotation(annotation_id: int, label: str) -> Annotation:
    return Annotation(annotation_id, 5, "img", 2, label, was_skipped=False, updated_at="2026-01-01")


def test_created_changed_and_deleted_annotations_count_as_changes(root: Path) -> None:
    before = {1: "cat", 2: "dog", 3: "cat"}
    now = {1: "cat", 2: "cat", 4: "dog"}
    store = ProjectStore(root)
    store.record_tasks(readings({5: [annotation(i, label) for i, label in now.items()]}), 10.0)
    store.record_learned(before, 11.0)
    assert store.new_annotations() == (3, 10.0)
    store.record_learned(now, 12.0)
    assert store.new_annotations() == (0, None)


def test_learned_annotations_are_kept_and_without_them_all_count_as_new(root: Path) -> None:
    rows = readings({5: [annotation(5, "cat")]})
    ProjectStore(root).record_tasks(rows, 10.0)
    assert ProjectStore(root).new_annotations() == (1, 10.0)
    ProjectStore(root).record_learned({5: "cat"}, 11.0)
    assert ProjectStore(root).new_annotations() == (0, None)
    damage(root, "{half")
    with pytest.raises(StoreError, match=DAMAGED):
        ProjectStore(root).new_annotations()
    move_away(root)
    assert ProjectStore(root).new_annotations() == (0, None)  # nothing is read yet
    ProjectStore(root).record_tasks(rows, 12.0)
    assert ProjectStore(root).new_annotations() == (1, 12.0)


def test_annotations_are_kept_and_unreadable_ones_are_read_again(root: Path) -> None:
    row, noon = annotation(1, "cat"), NOON.timestamp()
    ProjectStore(root).record_tasks(readings({5: [row], 6: []}), noon)
    ProjectStore(root).record_reading(noon, is_full=True)
    store = ProjectStore(root)
    assert store.facts().read_at == noon
    assert store.annotations() == {5: [row]}
    assert [task.task_id for task in store.tasks()] == [5, 6]
    for content in ("[]", '{"tasks": 3}'):
        damage(root, content)
        with pytest.raises(StoreError, match=DAMAGED):
            store.annotations()
    move_away(root)
    assert (store.annotations(), store.facts().read_at) == ({}, 0)  # all are read again
    damage(root, "")
    assert (store.annotations(), store.facts().read_at) == ({}, 0)


def test_a_task_that_cannot_be_listed_keeps_its_annotations(root: Path) -> None:
    store = ProjectStore(root)
    store.record_tasks(readings({5: [annotation(5, "cat")], 6: [annotation(6, "dog")]}), 10.0)
    store.record_reading(10.0, is_full=True)
    store.record_learned({5: "cat", 6: "dog"}, 11.0)
    store.record(unlisted_tasks=[5])
    store.record_reading(12.0, is_full=True)  # finds neither task: the second was deleted
    assert {i: [a.label for a in of_task] for i, of_task in store.annotations().items()} == {
        5: ["cat"]
    }
    assert store.new_annotations() == (1, 12.0)


def test_tasks_that_cannot_be_listed_count_as_tasks(root: Path) -> None:
    store = ProjectStore(root)
    store.record_tasks(readings({5: [], 6: []}), 10.0)
    assert store.n_tasks() == 2
    store.record(unlisted_tasks=[6, 7])
    assert store.n_tasks() == 3


def test_annotations_with_impossible_lead_times_are_found_until_they_are_deleted(
    root: Path,
) -> None:
    store = ProjectStore(root)
    slow = replace(annotation(9, "cat"), seconds=IMPOSSIBLE_S)
    quick = replace(annotation(8, "dog"), seconds=3.0)
    store.record_tasks(readings({5: [quick, slow]}), 10.0)
    assert store.impossible_times() == [(5, 9)]
    [_, kept] = store.annotations()[5]
    assert (kept.seconds, kept.working_s) == (IMPOSSIBLE_S, None)
    store.record_tasks(readings({5: [quick]}), 11.0)
    assert store.impossible_times() == []
