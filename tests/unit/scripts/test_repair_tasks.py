"""Repair tasks that Label Studio cannot list, with a stand-in for Label Studio."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from backend.base.errors import LabelStudioError
from backend.base.labeling import IMPOSSIBLE_S, Annotation, LabelConfig, Task, TaskReading
from backend.base.settings import Settings
from backend.labelstudio.unlistable_tasks import MAX_TASKS
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from scripts import repair_tasks
from tests.unit.store.test_registry import record

PROJECT = 7


@dataclass
class BrokenProject:
    """Tasks that cannot be listed, and annotations, each on a task with its id."""

    store: ProjectStore
    unlistable: list[int] = field(default_factory=list)
    times: dict[int, float | None] = field(default_factory=dict)  # by annotation
    keeps: int = 0  # a task that Label Studio does not delete

    def label_config(self) -> LabelConfig:
        return LabelConfig("label", "image", "image", ("cat", "dog"))

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        assert changed_after is None
        self.store.record(unlisted_tasks=self.unlistable[:MAX_TASKS])
        if len(self.unlistable) > MAX_TASKS:
            raise LabelStudioError("too many tasks cannot be listed")
        for number, seconds in self.times.items():
            task = Task(number, "img", is_open=False, awaits_second_opinion=False)
            made = Annotation(number, number, "img", 2, "cat", False, "", seconds=seconds)
            yield TaskReading(task, "2026-01-01", (made,), None)

    def remove_lead_time(self, annotation_id: int) -> None:
        self.times[annotation_id] = None

    def delete_tasks(self, task_ids: Sequence[int]) -> None:
        for task_id in {*task_ids} - {self.keeps}:
            self.unlistable.remove(task_id)
        raise LabelStudioError("'list' object has no attribute 'keys'", 500)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrokenProject:
    root = project_root(tmp_path, PROJECT)
    write_record(root, record(PROJECT))
    project = BrokenProject(ProjectStore(root))
    settings = Settings(model_dir=tmp_path, label_studio_api_key="token")
    monkeypatch.setattr(repair_tasks, "load_settings", lambda: settings)
    monkeypatch.setattr(repair_tasks, "open_project", lambda *_: project)
    return project


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["repair_tasks", *arguments])
    assert repair_tasks.main() == 0


def test_impossible_lead_times_are_removed_and_others_stay(
    project: BrokenProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.times = {1: 2.5, 2: IMPOSSIBLE_S, 3: IMPOSSIBLE_S}
    run(monkeypatch)
    assert project.times == {1: 2.5, 2: None, 3: None}
    assert capsys.readouterr().out == "2 impossible lead times removed\n"
    run(monkeypatch)
    assert capsys.readouterr().out == "0 impossible lead times removed\n"


def test_tasks_that_cannot_be_listed_are_named_and_only_deleted_on_request(
    project: BrokenProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.unlistable = [4, 9]
    run(monkeypatch)
    assert capsys.readouterr().out.endswith(
        "tasks that cannot be listed: 4, 9 (to delete them, add --delete)\n"
    )
    assert project.unlistable == [4, 9]
    run(monkeypatch, "--delete")
    assert capsys.readouterr().out.endswith("deleted tasks: 4, 9\n")
    assert project.unlistable == []


def test_more_tasks_are_deleted_than_are_remembered(
    project: BrokenProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.unlistable = [*range(1, 46)]
    run(monkeypatch, "--delete")
    assert project.unlistable == []
    assert capsys.readouterr().out.endswith(f"deleted tasks: {', '.join(map(str, range(1, 46)))}\n")


def test_a_task_that_label_studio_does_not_delete_is_not_called_deleted(
    project: BrokenProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.unlistable, project.keeps = [4, 9], 4
    run(monkeypatch, "--delete")
    [_, deleted, left] = capsys.readouterr().out.splitlines()
    assert deleted == "deleted tasks: 9"
    assert left.startswith("tasks that cannot be listed: 4")


def test_a_label_studio_that_cannot_be_read_is_an_error(
    project: BrokenProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["repair_tasks", "--delete"])

    def refuse(_: object = None) -> Iterator[TaskReading]:
        raise LabelStudioError("Label Studio cannot be reached")

    monkeypatch.setattr(project, "read_tasks", refuse)
    with pytest.raises(LabelStudioError, match="cannot be reached"):
        repair_tasks.main()
