"""Read pages of tasks while people delete tasks, and pages that Label Studio cannot list."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.base.errors import LabelStudioError
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.task_pages import TaskPages
from backend.labelstudio.unlistable_tasks import MAX_TASKS, UnlistableTasks
from backend.store.project_store import ProjectStore
from tests.unit.labelstudio.data_manager import DataManager, serving
from tests.unit.labelstudio.stand_in_server import serving_json

DELETED = 500, "59"  # how Label Studio answers if task 59 is deleted while it reads the page
PAGE = 200, {"tasks": [{"id": 7}], "total": 1}
COLUMNS = "id,annotations,lead_time"


@contextmanager
def answering(*answers: tuple[int, object]) -> Iterator[tuple[TaskPages, list[tuple[int, object]]]]:
    """Give these answers, one per request; the list holds the answers that are left."""
    left = list(answers)

    def answer(_: str) -> tuple[int, object]:
        status, body = left.pop(0)
        return status, body if status == 200 else {"detail": body}

    with serving_json(answer) as url:
        yield TaskPages(LabelStudio(url, "token"), 12, UnlistableTasks()), left


def pages_of(manager: DataManager, unlistable: UnlistableTasks | None = None) -> TaskPages:
    return TaskPages(LabelStudio(manager.url, "token"), 12, unlistable or UnlistableTasks())


def read(pages: TaskPages, columns: str = COLUMNS) -> dict[int, list[float | None]]:
    """Return the lead times of all tasks' annotations, by task."""
    tasks = list(pages.read(columns))
    assert len(tasks) == len({task["id"] for task in tasks})
    return {task["id"]: [a.get("lead_time") for a in task.get("annotations", ())] for task in tasks}


def test_a_page_from_which_a_task_is_just_deleted_is_read_again() -> None:
    with answering(DELETED, DELETED, PAGE) as (pages, left):
        assert list(pages.read("id")) == [{"id": 7}]
        assert left == []


def test_a_page_that_fails_three_times_is_read_in_smaller_parts() -> None:
    nothing = 200, {"tasks": [], "total": 0}  # Label Studio can list nothing, so it is not down
    with answering(*[DELETED] * 3, nothing, PAGE) as (pages, left):
        assert list(pages.read("id")) == [{"id": 7}]
        assert left == []


def test_a_refused_page_is_not_read_again() -> None:
    with answering((403, "not allowed"), PAGE) as (pages, left):
        with pytest.raises(LabelStudioError):
            list(pages.read("id"))
        assert left == [PAGE]


def test_no_task_is_blamed_for_a_database_that_is_down() -> None:
    unlistable = UnlistableTasks()
    down = pytest.raises(LabelStudioError, match="the database is down")
    with serving(DataManager([1, 2, 3], is_down=True)) as manager, down:
        read(pages_of(manager, unlistable))
    assert len(manager.requests) == 6
    assert (unlistable.untimed, unlistable.unlisted) == (frozenset(), frozenset())


def test_a_task_with_an_impossible_lead_time_is_read_and_its_neighbors_keep_their_times() -> None:
    unlistable = UnlistableTasks()
    with serving(DataManager([*range(1, 1201)], untimed={700})) as manager:
        found = read(pages_of(manager, unlistable))
    assert found == {**{i: [3.0] for i in range(1, 1201)}, 700: [math.inf]}
    assert unlistable.untimed == {700}


def test_a_known_task_without_lead_times_costs_one_request_per_reading_of_changes() -> None:
    unlistable = UnlistableTasks()
    unlistable.add_untimed(700)
    later = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": 700}
    with serving(DataManager([*range(1, 1201)], untimed={700})) as manager:
        changed = list(pages_of(manager, unlistable).read(COLUMNS, [later]))
        assert len(changed) == 500
        assert manager.requests == ["/api/tasks/"] * 2
    assert unlistable.untimed == {700}


def test_a_repaired_task_is_listed_with_the_others_again() -> None:
    unlistable = UnlistableTasks()
    unlistable.add_untimed(2)
    with serving(DataManager([1, 2, 3])) as manager:
        pages = pages_of(manager, unlistable)
        assert read(pages) == {1: [3.0], 2: [3.0], 3: [3.0]}
        assert unlistable.untimed == frozenset()
        manager.requests.clear()
        read(pages)
        assert manager.requests == ["/api/tasks/"]


def test_a_deleted_task_is_forgotten() -> None:
    unlistable = UnlistableTasks()
    unlistable.add_untimed(2)
    unlistable.add_unlisted(4)
    with serving(DataManager([1, 3])) as manager:
        pages = pages_of(manager, unlistable)
        assert read(pages) == {1: [3.0], 3: [3.0]}
        pages.recheck_unlisted()
    assert (unlistable.untimed, unlistable.unlisted) == (frozenset(), frozenset())


def test_a_task_that_gets_worse_is_remembered_as_one_that_cannot_be_listed_at_all() -> None:
    unlistable = UnlistableTasks()
    unlistable.add_untimed(2)
    with serving(DataManager([1, 2, 3], unlistable={2})) as manager:
        assert read(pages_of(manager, unlistable)) == {1: [3.0], 3: [3.0]}
    assert unlistable.unlisted == {2}


@pytest.mark.parametrize("columns", ["id,data", COLUMNS])
@pytest.mark.parametrize("task_id", [1, 2, 600, 1200])
def test_only_a_task_that_cannot_be_listed_at_all_is_left_out(task_id: int, columns: str) -> None:
    unlistable = UnlistableTasks()
    with serving(DataManager([*range(1, 1201)], unlistable={task_id})) as manager:
        pages = pages_of(manager, unlistable)
        assert read(pages, columns).keys() == {*range(1, 1201)} - {task_id}
        assert unlistable.unlisted == {task_id}
        manager.requests.clear()
        assert read(pages, columns).keys() == {*range(1, 1201)} - {task_id}
        assert len(manager.requests) == 3


def test_a_task_that_cannot_be_listed_is_found_between_ids_of_other_projects() -> None:
    unlistable = UnlistableTasks()
    with serving(DataManager([5, 900_000, 900_001], unlistable={900_000})) as manager:
        assert read(pages_of(manager, unlistable)).keys() == {5, 900_001}
    assert unlistable.unlisted == {900_000}


def test_a_task_that_can_be_listed_again_is_read() -> None:
    unlistable = UnlistableTasks()
    unlistable.add_unlisted(2)
    with serving(DataManager([1, 2, 3], unlistable={2})) as manager:
        pages = pages_of(manager, unlistable)
        pages.recheck_unlisted()
        assert unlistable.unlisted == {2}
        manager.unlistable.clear()
        pages.recheck_unlisted()
        assert read(pages) == {1: [3.0], 2: [3.0], 3: [3.0]}


def test_tasks_are_chosen_by_id_without_those_that_cannot_be_listed() -> None:
    unlistable = UnlistableTasks()
    unlistable.add_unlisted(2)
    with serving(DataManager([1, 2, 3], unlistable={2})) as manager:
        pages = pages_of(manager, unlistable)
        assert [task["id"] for task in pages.read("id", among=[2, 3])] == [3]
        assert list(pages.read("id", among=[2])) == []


def test_if_many_tasks_have_impossible_lead_times_pages_are_read_without_lead_times() -> None:
    unlistable = UnlistableTasks()
    untimed = set(range(1, 1 + MAX_TASKS + 10))
    with serving(DataManager([*range(1, 61)], untimed=untimed)) as manager:
        found = read(pages_of(manager, unlistable))
    assert len(unlistable.untimed) == MAX_TASKS
    assert found == {i: [math.inf] if i <= MAX_TASKS else [None] for i in range(1, 61)}


def test_too_many_tasks_that_cannot_be_listed_are_an_error() -> None:
    unlistable = set(range(1, MAX_TASKS + 2))
    too_many = pytest.raises(LabelStudioError, match="cannot list task 21 and 20 other tasks")
    with serving(DataManager([*range(1, 61)], unlistable=unlistable)) as manager, too_many:
        read(pages_of(manager))


def test_another_process_knows_the_tasks_that_cannot_be_listed(tmp_path: Path) -> None:
    with serving(DataManager([1, 2, 3, 4], untimed={2}, unlistable={3})) as manager:
        read(pages_of(manager, UnlistableTasks(ProjectStore(tmp_path))))
    later = UnlistableTasks(ProjectStore(tmp_path))
    assert later.untimed == {2}
    assert later.unlisted == {3}
