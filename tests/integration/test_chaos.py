"""Run a short form of `make chaos`, and check that its audit notices losses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.research.chaos.audit import Finding, audit
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.chaos.faults import FAULTS
from scripts.research.chaos.ledger import Ledger
from scripts.research.chaos.report import Report
from scripts.research.chaos.trial import break_stack
from tests.integration.conftest import CreateTables, Stack, running_stack
from tests.patience import wait_for

# None of these faults waits until a lease in Redis expires.
SHORT = (
    "kill -9 PostgreSQL's postmaster",
    "freeze Label Studio",
    "flush Redis",
    "kill -9 the backend and its workers",
    "the webhook deleted",
)


@pytest.fixture(scope="module")
def running(create_tables: CreateTables) -> Iterator[Stack]:
    """A stack that soon learns what people leave behind when they stop."""
    with running_stack(create_tables, RETRAIN_WAIT="10") as running:
        yield running
    assert not running.processes()


@pytest.fixture(scope="module")
def stack(running: Stack, tmp_path_factory: pytest.TempPathFactory) -> ChaosStack:
    ledger = Ledger(tmp_path_factory.mktemp("chaos") / "ledger.jsonl")
    return ChaosStack(running.folder, running.environment, ledger)


@pytest.fixture(scope="module")
def report(stack: ChaosStack) -> Report:
    by_name = {fault.name: fault for fault in FAULTS}
    faults = [by_name[name] for name in SHORT]
    assert not any(fault.waits_for_heartbeat for fault in faults)
    return break_stack(stack, faults, 1, print)


def finding(stack: ChaosStack, images: set[str], name: str) -> Finding:
    return next(found for found in audit(stack, images) if found.name == name)


def test_five_faults_lose_nothing_while_two_people_label(report: Report) -> None:
    """Check no times; `make chaos` checks how long the stack takes to catch up."""
    told = "\n".join(report.lines())
    assert [outcome.name for outcome in report.outcomes if outcome.has_recovered] == [*SHORT], told
    assert not [problem for found in report.findings for problem in found.problems], told
    assert report.learned_s is not None, told


def test_the_audit_notices_a_lost_annotation_and_a_second_task(
    stack: ChaosStack, report: Report
) -> None:
    assert report.outcomes
    lost, *_ = stack.ledger.entries().values()
    images = {task.image_id for task in stack.project.tasks()}
    assert not finding(stack, images, "annotations").problems
    stack.project.delete_annotation(lost.annotation_id)
    task = stack.label_studio.get(f"/api/tasks/{lost.task_id}/").raise_for_status().json()
    again = {"data": task["data"], "project": stack.project_id}
    made = stack.label_studio.post("/api/tasks/", json=again).raise_for_status().json()["id"]
    try:
        expected = (
            f"Label Studio lost annotation {lost.annotation_id} of task {lost.task_id}",
            f"project.db lost annotation {lost.annotation_id} of task {lost.task_id}",
        )
        wait_for(
            lambda: finding(stack, images, "annotations").problems == expected,
            "the clock to notice the deletion",
            show=lambda: str(finding(stack, images, "annotations")),
        )
        assert finding(stack, images, "tasks").problems == (f"2 tasks for image {lost.image_id}",)
    finally:
        stack.project.delete_tasks([made])
