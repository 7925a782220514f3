"""Find out whether Label Studio orders tasks by the model's predictions."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from backend.base.labeling import Task, TaskOrder, TaskReading
from backend.rounds.order_problem import find_problem, may_switch, record_order
from backend.store.project_record import ProjectRecord
from backend.store.project_store import ProjectStore
from tests.unit.store.test_registry import attached, record

OWN = record(7)
ATTACHED = attached(OWN)


def order(version: str, **changes: bool) -> TaskOrder:
    return TaskOrder(**{"is_by_confidence": True, **changes}, model_version=version)


@pytest.mark.parametrize("version", ["r0007", "r0007h02", "r0000"])
def test_there_is_no_problem_while_a_version_of_ours_orders_the_tasks(version: str) -> None:
    for project in (OWN, ATTACHED):
        assert find_problem(order(version), project, has_ordered=True) == ""


@pytest.mark.parametrize(("version", "now"), [("v3", "is now 'v3'"), ("", "was cleared")])
def test_a_model_version_that_the_team_chose_after_attaching_is_left_alone_and_reported(
    version: str, now: str
) -> None:
    problem = find_problem(order(version), ATTACHED, has_ordered=True)
    assert now in problem
    assert "`python -m scripts.setup_project --attach 7`" in problem
    assert not may_switch(order(version), is_attached=True, has_ordered=True)


def test_the_teams_former_model_version_is_replaced_once() -> None:
    assert find_problem(order("v3"), ATTACHED, has_ordered=False) == ""
    assert may_switch(order("v3"), is_attached=True, has_ordered=False)


def test_a_project_that_we_created_is_switched_back() -> None:
    assert find_problem(order("v3"), OWN, has_ordered=False) == ""
    assert may_switch(order("v3"), is_attached=False, has_ordered=False)


def test_another_sampling_is_reported_with_the_command_that_changes_it_back() -> None:
    sequential = order("r0007", is_by_confidence=False)
    assert find_problem(sequential, OWN, has_ordered=False).endswith(
        "run `python -m scripts.setup_project`."
    )
    assert "--attach 7`" in find_problem(sequential, ATTACHED, has_ordered=True)
    assert not may_switch(sequential, is_attached=True, has_ordered=True)


@pytest.fixture
def store(tmp_path: Path) -> ProjectStore:
    """A project with one open task, whose tasks were last ordered by r0002."""
    store = ProjectStore(tmp_path)
    task = Task(1, "a", is_open=True, awaits_second_opinion=False)
    store.record_tasks([TaskReading(task, "2026-01-01", (), None)], 0.0)
    store.record(ordered_by="r0002", has_ordered=True)
    return store


def test_a_problem_is_recorded_and_logged_once_until_it_is_solved(
    store: ProjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for version in ("v3", "v3", "r0002", "r0002"):
        record_order(store, ATTACHED, order(version))
        assert bool(store.facts().order_problem) == (version == "v3")
        assert store.facts().ordered_by == "r0002"  # so that no refresh becomes due
    assert [message[:30] for message in caplog.messages] == [
        "project 7: Annotators do not g",
        "project 7: the model's predict",
    ]


def test_an_older_version_of_ours_makes_a_refresh_due(store: ProjectStore) -> None:
    record_order(store, ATTACHED, order("r0001"))
    assert store.facts().ordered_by == "r0001"


@pytest.mark.parametrize("project", [OWN, ATTACHED])
def test_deleted_predictions_make_a_refresh_due(
    store: ProjectStore, project: ProjectRecord
) -> None:
    record_order(store, project, order("r0002", has_predictions=False))
    assert store.facts().ordered_by == ""


def test_how_many_annotations_the_project_asks_for_is_recorded(store: ProjectStore) -> None:
    record_order(store, ATTACHED, TaskOrder(True, "r0002", annotations_per_task=2))
    assert store.facts().annotations_per_task == 2
