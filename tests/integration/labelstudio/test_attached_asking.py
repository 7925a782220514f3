"""Ask for the tasks of a team's project: two people label what the loop has predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch

from backend.base.image_ids import image_id_of_task
from backend.base.settings import Settings
from backend.images.pool import open_pool
from backend.images.splits import NO_IMAGES, Split
from backend.labelstudio.attached_project import AttachedProject
from backend.labelstudio.client import create_project
from backend.labelstudio.label_config import label_config_xml
from backend.network.training import Recipe
from backend.rounds import batches, rounds
from backend.rounds.loop import Loop
from backend.store.project_record import write_record
from tests.integration.labelstudio.annotating import annotate
from tests.unit.store.test_registry import attached, record

N_TASKS, N_SAMPLE = 60, 10


@pytest.fixture
def loop(tmp_path: Path, credentials: tuple[str, str], api: httpx.Client) -> Iterator[Loop]:
    """Provide a loop that is attached to a project whose tasks show digits."""
    pool = open_pool("digits", tmp_path, seed=0)
    project_id = create_project(
        *credentials, title="Of the team", label_config=label_config_xml(pool.classes)
    )
    tasks = [{"data": {"image": f"data:image/png;base64,{i}"}} for i in range(N_TASKS)]
    api.post(f"/api/projects/{project_id}/import", json=tasks).raise_for_status()
    project = AttachedProject(*credentials, project_id)
    ids = tuple(image_id_of_task(task.task_id) for task in project.tasks())
    n_pool = N_TASKS - N_SAMPLE
    root = tmp_path / f"p{project_id}"
    own = record(project_id).model_copy(update={"classes": pool.classes})
    write_record(root, attached(own))
    yield Loop(
        settings=Settings.model_construct(batch_size=4, data_dir=tmp_path),
        root=root,
        project=project,
        pool=replace(
            pool,
            image_ids=ids[:n_pool],
            images=pool.images[:n_pool],
            validation=NO_IMAGES.select({}),
            sample=Split(ids[n_pool:], pool.images[n_pool:N_TASKS]),
            validated_by="people",
        ),
        weights="none",
        recipe=Recipe(image_size=32, batch_size=16, min_steps=12, epochs=1),
        seed=0,
        device=torch.device("cpu"),
        choices=pool.classes,
        validation_labels=5,
        is_attached=True,
    )
    api.delete(f"/api/projects/{project_id}/").raise_for_status()


def label_next(client: httpx.Client, loop: Loop, label: str) -> int:
    """Annotate the task that Label Studio serves this person next; return its id."""
    project = project_of(loop)
    task = client.get(f"/api/projects/{project.project_id}/next").raise_for_status().json()
    annotate(client, project, task["id"], label)
    return int(task["id"])


def project_of(loop: Loop) -> AttachedProject:
    assert isinstance(loop.project, AttachedProject)
    return loop.project


def queried(loop: Loop) -> set[int]:
    return {task.task_id for task in loop.store.tasks()}


def test_two_people_get_only_tasks_that_were_asked_and_a_version_asks_more(
    loop: Loop, api: httpx.Client, second: httpx.Client
) -> None:
    project = project_of(loop)
    before = api.get(f"/api/projects/{project.project_id}/").json()
    batches.top_up(loop)
    assert project.model_version() == "r0000"
    assert len(queried(loop)) == 4
    for turn in range(16):
        asked = queried(loop)
        assert label_next(api if turn % 2 else second, loop, "34"[turn // 2 % 2]) in asked
        batches.top_up(loop)
    assert 10 <= loop.store.n_open() <= 19  # five images for each of them, or a batch more

    meta = rounds.train_round(loop, is_forced=False, progress=lambda *_: None)
    assert meta is not None
    assert project.model_version() == "r0001"
    assert sorted(project.model_versions()) == ["r0000", "r0001"]
    open_ids = {task.task_id for task in project.open_tasks(among=queried(loop))}
    ordered = project.predicted_by("r0001", queried(loop))
    assert ordered >= open_ids
    assert label_next(api, loop, "3") in ordered & open_ids

    after = api.get(f"/api/projects/{project.project_id}/").json()
    changed = {name for name in before if before[name] != after[name]}
    assert "task_number" not in changed
    assert "label_config" not in changed


def test_tasks_that_lack_a_second_annotation_come_first_and_get_no_predictions_again(
    loop: Loop, api: httpx.Client, second: httpx.Client
) -> None:
    project = project_of(loop)
    path = f"/api/projects/{project.project_id}/"
    api.patch(path, json={"maximum_annotations": 2}).raise_for_status()
    loop.store.record(annotations_per_task=2)
    batches.top_up(loop)
    started = {label_next(api, loop, label) for label in ("3", "4", "3")}
    assert started < queried(loop)
    assert label_next(second, loop, "3") in started
    batches.top_up(loop)
    for label in ("4", "3", "4"):
        label_next(api, loop, label)
    rounds.train_round(loop, is_forced=True, progress=lambda *_: None)
    waiting = {
        task.task_id
        for task in project.open_tasks(among=queried(loop))
        if task.awaits_second_opinion
    }
    assert waiting
    assert project.predicted_by("r0001", waiting) == set()
    assert label_next(second, loop, "3") in waiting
