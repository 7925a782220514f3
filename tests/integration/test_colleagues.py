"""Change the project in Label Studio as colleagues might; the stack keeps working."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from backend.images.known_labels import true_labels
from backend.labelstudio.project import LabelStudioProject
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from tests.integration.conftest import SMALL, Stack
from tests.integration.people import Person, pool_of
from tests.patience import wait_for

BATCH = int(SMALL["BATCH_SIZE"])


@pytest.fixture(scope="module")
def stack(stack_from_nothing: Stack) -> Stack:
    return stack_from_nothing


@pytest.fixture
def store(stack: Stack) -> ProjectStore:
    return ProjectStore(project_root(stack.settings.model_dir, stack.info["project_id"]))


def rows(person: Person, path: str) -> list[dict[str, Any]]:
    """Return the project's webhooks or ML backends."""
    found: list[dict[str, Any]] = person.get(path, project=person.project_id)
    return found


def delete(person: Person, path: str) -> None:
    [row] = rows(person, path)
    person.http.delete(f"{path}{row['id']}").raise_for_status()


def notices(person: Person, part: str) -> list[str]:
    return [notice for notice in person.status()["notices"] if part in notice]


def test_a_deleted_webhook_and_ml_backend_come_back_and_are_left_when_deleted_again(
    stack: Stack, person: Person, store: ProjectStore
) -> None:
    wait_for(lambda: store.facts().connected_to, "the clock to see the connection")
    for path in ("/api/webhooks/", "/api/ml/"):
        delete(person, path)
        wait_for(partial(rows, person, path), f"another row of {path}")
    assert notices(person, "restore") == []

    delete(person, "/api/webhooks/")
    [notice] = wait_for(lambda: notices(person, "less than a day ago"), "a notice")
    assert notice.startswith("The project's webhook in Label Studio was deleted")
    assert rows(person, "/api/webhooks/") == []

    assert "python -m scripts.setup_project" in notice
    repaired = stack.run("scripts.setup_project")
    assert repaired.returncode == 0, repaired.stderr
    assert len(rows(person, "/api/webhooks/")) == 1
    wait_for(lambda: not notices(person, "webhook"), "the notice to disappear")


def test_images_are_queried_although_a_colleague_added_more_open_tasks_than_a_batch(
    stack: Stack, person: Person, store: ProjectStore
) -> None:
    path = f"/api/projects/{person.project_id}/import"
    added = [{"data": {"image": "data:image/png;base64,"}} for _ in range(60)]
    person.http.post(path, json=added).raise_for_status()
    wait_for(lambda: notices(person, "60 open tasks were not created by"), "a notice")
    before = store.n_queried()
    project = LabelStudioProject(
        stack.info["label_studio_url"], stack.info["api_key"], person.project_id
    )
    config, truth = project.label_config(), true_labels(pool_of(stack))
    waiting = [task for task in store.tasks() if task.is_open]
    for task in waiting[: len(waiting) - BATCH + 1]:
        person.submit(task.task_id, truth[task.image_id], config)
    wait_for(lambda: store.n_queried() > before, "another batch")

    rested = person.wait_for_rest(1)
    project.delete_tasks(sorted(store.foreign_tasks()))
    wait_for(lambda: not notices(person, "were not created by"), "the notice to disappear")
    assert person.status()["new_annotations"] == rested["new_annotations"]
