"""A real stack recovers from bursts, lost webhooks and killed processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from backend.base.labeling import LabelConfig
from backend.images.known_labels import true_labels
from backend.labelstudio.project import LabelStudioProject
from tests.integration.conftest import ROOT, Stack
from tests.integration.people import Person, pool_of
from tests.patience import PATIENCE_S, wait_for


@pytest.fixture(scope="module")
def stack(stack_from_nothing: Stack) -> Stack:
    return stack_from_nothing


@pytest.fixture
def config(project: LabelStudioProject) -> LabelConfig:
    return project.label_config()


@pytest.fixture(scope="module")
def truth(stack: Stack) -> dict[str, str]:
    return true_labels(pool_of(stack))


AnnotateTasks = Callable[[int], None]


@pytest.fixture
def annotate(person: Person, project: LabelStudioProject, truth: dict[str, str]) -> AnnotateTasks:
    """Return a function that labels a number of open tasks correctly."""

    def annotate_open_tasks(count: int) -> None:
        config = project.label_config()
        wait_for(lambda: project.counts().open >= count, f"{count} open tasks")
        for task in [task for task in project.tasks() if task.is_open][:count]:
            person.submit(task.task_id, truth[task.image_id], config)

    return annotate_open_tasks


def trainer(stack: Stack) -> psutil.Process:
    return psutil.Process(stack.info["pids"]["trainer"])


def start_training_and_wait_until_it_trains(person: Person) -> None:
    person.start_training()

    def is_training() -> bool:
        job: dict[str, Any] = person.training() or {}
        return job.get("phase") == "training"

    wait_for(is_training, "a training under way")


def test_ten_annotations_in_a_burst_lead_to_at_most_two_training_runs(
    person: Person, project: LabelStudioProject, annotate: AnnotateTasks
) -> None:
    before = person.status()["round"]
    annotate(10)
    after = person.wait_for_rest(before + 1)
    assert after["round"] - before in (1, 2)
    assert after["annotations"] == project.counts().annotations


def test_the_queue_is_topped_up_while_people_label(
    project: LabelStudioProject, annotate: AnnotateTasks
) -> None:
    annotate(3)
    wait_for(lambda: project.counts().open >= 10, "the queue to be topped up")
    ids = [task.image_id for task in project.tasks()]
    assert len(ids) == len(set(ids))


def test_the_clock_counts_annotations_whose_webhook_was_lost(
    stack: Stack, person: Person, annotate: AnnotateTasks
) -> None:
    [hook] = person.get("/api/webhooks/", project=person.project_id)
    person.http.patch(
        f"/api/webhooks/{hook['id']}/",
        json={"url": "http://127.0.0.1:9/webhook", "actions": hook["actions"]},
    ).raise_for_status()
    try:
        before = person.status()["new_annotations"]
        annotate(2)
        wait_for(
            lambda: person.status()["new_annotations"] >= before + 2,
            "two lost annotations counted",
        )
    finally:
        mended = stack.run("scripts.setup_project")
    assert mended.returncode == 0, mended.stderr
    [hook] = person.get("/api/webhooks/", project=person.project_id)
    assert hook["url"] == f"{stack.info['backend_url']}/webhook"


@pytest.mark.parametrize("with_child", [False, True], ids=["trainer alone", "trainer and child"])
def test_a_training_run_whose_worker_is_killed_restarts_once_automatically(
    stack: Stack, person: Person, with_child: bool
) -> None:
    before = person.status()
    start_training_and_wait_until_it_trains(person)
    worker = trainer(stack)
    victims = [worker, *(worker.children(recursive=True) if with_child else [])]
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    after = wait_for(
        lambda: (s := person.status())["round"] > before["round"] and s,
        "a new version after the kill",
    )
    assert after["round"] == before["round"] + 1
    wait_for(lambda: not person.training(), "no training left")
    assert person.status()["round"] == before["round"] + 1  # once


def test_a_task_that_an_annotator_has_open_can_be_submitted_after_a_reorder(
    person: Person, project: LabelStudioProject, config: LabelConfig
) -> None:
    status = person.status()
    wait_for(lambda: project.model_version() == status["version"], "the current order")
    task = person.next_task()
    [shown] = [p for p in task["predictions"] if p["model_version"] == status["version"]]
    person.start_training()
    newer = person.wait_for_rest(status["round"] + 1)
    wait_for(lambda: project.model_version() == newer["version"], "the new order")
    assert person.submit(task["id"], config.choices[0], config, shown["id"])


def test_an_annotator_never_waits_for_a_dead_backend(
    stack: Stack, person: Person, annotate: AnnotateTasks
) -> None:
    before = person.status()["annotations"]
    master = psutil.Process(stack.info["pids"]["backend"])
    # Without its master, a worker process would serve requests for a moment.
    for process in (master, *master.children()):
        process.kill()
    annotate(2)
    wait_for(lambda: _is_up(person), "the backend to be back")
    wait_for(lambda: person.status()["annotations"] >= before + 2, "the clock to have counted")


def test_set_up_and_sync_twice_leave_exactly_one_of_everything(
    stack: Stack, person: Person, project: LabelStudioProject
) -> None:
    for _ in range(2):
        again = stack.run("scripts.setup_project")
        assert again.returncode == 0, again.stderr
    titles = Counter(p["title"] for p in person.get("/api/projects/")["results"])
    assert titles[project.title()] == 1
    assert len(person.get("/api/webhooks/", project=person.project_id)) == 1
    assert len(person.get("/api/ml", project=person.project_id)) == 1

    before = len(project.tasks())
    command = [sys.executable, "-m", "scripts.sync", "--count", "7"]
    at_once: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(2):
            at_once.append(
                subprocess.Popen(
                    command, env=stack.environment, cwd=ROOT, stdout=subprocess.DEVNULL
                )
            )
        assert [process.wait(PATIENCE_S) for process in at_once] == [0, 0]
    finally:
        for process in at_once:
            process.kill()
            process.wait()
    ids = [task.image_id for task in project.tasks()]
    assert len(ids) == before + 14
    assert len(ids) == len(set(ids))


def test_a_sync_that_was_killed_halfway_and_rerun_makes_no_duplicate(
    stack: Stack, project: LabelStudioProject
) -> None:
    before = {task.task_id for task in project.tasks()}
    command = [sys.executable, "-m", "scripts.sync", "--count", "30"]
    dying = subprocess.Popen(command, env=stack.environment, cwd=ROOT)
    try:
        # Kill the sync as soon as its first tasks exist, whether or not it has seen the response.
        wait_for(lambda: {t.task_id for t in project.tasks()} - before, "tasks of the dying push")
    finally:
        dying.kill()
        dying.wait()
    again = stack.run("scripts.sync", "--count", "5")
    assert again.returncode == 0, again.stderr
    ids = [task.image_id for task in project.tasks()]
    assert len(ids) == len(set(ids))


def test_rolling_back_changes_the_served_version_and_label_studios_order(
    stack: Stack, person: Person, project: LabelStudioProject
) -> None:
    newest = person.status()["version"]
    wait_for(lambda: project.model_version() == newest, "the newest order")
    rolled_back = stack.run("scripts.models", "promote", "r0001")
    assert rolled_back.returncode == 0, rolled_back.stderr
    assert person.status()["version"] == "r0001"
    wait_for(lambda: project.model_version() == "r0001", "the order of r0001")
    listed = stack.run("scripts.models", "list").stdout
    assert [line.split()[0] for line in listed.splitlines() if "in service" in line] == ["r0001"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("scripts.models", "promote", "r9999"), "no version 'r9999'"),
        (("scripts.models", "--project", "99", "list"), "--project"),
    ],
)
def test_a_wrong_command_fails_and_reports_what_is_wrong(
    stack: Stack, arguments: tuple[str, ...], hint: str
) -> None:
    failed = stack.run(*arguments)
    assert failed.returncode == 1
    assert hint in failed.stderr
    assert "Traceback" not in failed.stderr


def _is_up(person: Person) -> bool:
    try:
        person.status()
    except httpx.HTTPError:
        return False
    return True
