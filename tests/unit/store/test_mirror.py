"""Mirror annotations: count new ones, and refuse a damaged database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend.base.errors import (
    StoreError,
)
from backend.base.labeling import Annotation, Task, TaskReading
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
            Task(i, "img", not given, awaits_second_opinion=False), "2026-01-01", tuple(given), None
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
