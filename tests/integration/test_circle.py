"""Three rounds on real services with an oracle: predict, ask, label, retrain."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import httpx
import numpy as np
import pytest

from backend.base.labeling import LabelConfig
from backend.images.known_labels import true_labels
from backend.images.pool import Pool
from backend.labelstudio.project import LabelStudioProject
from tests.integration.conftest import Stack
from tests.integration.people import Person, pool_of
from tests.patience import PATIENCE_S, wait_for

BATCH = 40  # the stack's BATCH_SIZE


@pytest.fixture(scope="module")
def circle(stack_with_large_batches: Stack) -> Stack:
    return stack_with_large_batches


@pytest.fixture(scope="module")
def person(circle: Stack) -> Iterator[Person]:
    with Person(circle) as someone:
        yield someone


@pytest.fixture(scope="module")
def pool(circle: Stack) -> Pool:
    return pool_of(circle)


def confidence_served(circle: Stack, person: Person, pool: Pool) -> dict[str, float]:
    """Return the top class probability that /predict gives for each pool image."""
    settings = circle.settings
    config = person.get(f"/api/projects/{person.project_id}")["label_config"]
    response = httpx.post(
        f"{circle.info['backend_url']}/predict",
        auth=(settings.backend_user, settings.backend_password.get_secret_value()),
        json={
            "tasks": [{"id": n, "data": {"image_id": i}} for n, i in enumerate(pool.image_ids)],
            "project": f"{person.project_id}.1",
            "label_config": config,
        },
        timeout=PATIENCE_S,
    ).raise_for_status()
    results = response.json()["results"]
    assert {r["model_version"] for r in results} == {person.status()["version"]}
    return {
        i: float(np.float32(r["result"][0]["score"]))
        for i, r in zip(pool.image_ids, results, strict=True)
    }


def orders_tasks_by(project: LabelStudioProject, version: str) -> bool:
    return project.model_version() == version


def test_three_rounds_ask_the_least_confident_images_in_order_and_improve_the_model(
    circle: Stack, person: Person, pool: Pool
) -> None:
    truth = true_labels(pool)
    project = LabelStudioProject(
        circle.info["label_studio_url"], circle.info["api_key"], person.project_id
    )
    config: LabelConfig = project.label_config()
    before = person.wait_for_rest(1)
    wait_for(partial(orders_tasks_by, project, "r0001"), "the order of r0001")

    for number in (1, 2, 3):
        version = f"r{number:04d}"
        served = confidence_served(circle, person, pool)

        wait_for(lambda: project.counts().open == 2 * BATCH, "the batch of the new version")
        # /next serves open tasks in ascending order of the current confidence.
        scores = []
        for _ in range(BATCH):
            task = person.next_task()
            [prediction] = [p for p in task["predictions"] if p["model_version"] == version]
            scores.append(prediction["score"])
            image_id = task["data"]["image_id"]
            assert prediction["score"] == pytest.approx(served[image_id], abs=1e-6)
            person.submit(task["id"], truth[image_id], config, prediction["id"])
        assert scores == sorted(scores)

        # The forty annotations lead to one new version, which is served from then on.
        after = person.wait_for_rest(number + 1)
        assert after["version"] == f"r{number + 1:04d}"
        assert after["trained_on_labels"] == 20 + number * BATCH
        wait_for(partial(orders_tasks_by, project, after["version"]), "the new order")

        # This version asked the top images of the ranking computed here from served predictions.
        tasks = person.get("/api/tasks", project=person.project_id, page_size=500, fields="all")
        asked_by = {t["data"]["image_id"]: t["data"].get("asked_version") for t in tasks["tasks"]}
        asked = [i for i, asked_version in asked_by.items() if asked_version == version]
        asked_before = {i for i, v in asked_by.items() if (v or "") < version}
        candidates = [i for i in pool.image_ids if i not in asked_before]
        ranked = [candidates[k] for k in np.argsort([served[i] for i in candidates], kind="stable")]
        assert set(asked) == set(ranked[: len(asked)])
        assert len(asked) == BATCH

    ids = [t["data"]["image_id"] for t in tasks["tasks"]]
    assert len(ids) == len(set(ids))
    assert after["validation"]["accuracy"] > before["validation"]["accuracy"]
