"""Remember tasks that Label Studio cannot list, in memory or in the project's database."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.labelstudio.unlistable_tasks import UnlistableTasks
from backend.store.project_store import ProjectStore


@pytest.fixture(params=["memory", "database"])
def tasks(request: pytest.FixtureRequest, tmp_path: Path) -> UnlistableTasks:
    return UnlistableTasks(ProjectStore(tmp_path) if request.param == "database" else None)


def test_tasks_are_remembered_once_until_they_are_forgotten(tasks: UnlistableTasks) -> None:
    for task_id in (5, 3, 5):
        tasks.add_untimed(task_id)
    tasks.add_unlisted(7)
    assert (tasks.untimed, tasks.unlisted) == (frozenset({3, 5}), frozenset({7}))
    tasks.forget([5, 7, 9])
    assert (tasks.untimed, tasks.unlisted) == (frozenset({3}), frozenset())


def test_processes_share_what_is_in_the_database(tmp_path: Path) -> None:
    UnlistableTasks(ProjectStore(tmp_path)).add_untimed(5)
    UnlistableTasks(ProjectStore(tmp_path)).add_unlisted(7)
    later = UnlistableTasks(ProjectStore(tmp_path))
    assert (later.untimed, later.unlisted) == (frozenset({5}), frozenset({7}))
