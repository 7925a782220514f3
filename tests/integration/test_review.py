"""Review likely label errors in a real Label Studio, in projects made for these tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from backend.base.labeling import NewTask
from backend.base.settings import Settings
from backend.images.pool import Pool
from backend.labelstudio.client import create_project, find_project
from backend.labelstudio.incoming import WebhookEvent, read_webhook
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.project_setup import ProjectSetup
from backend.labelstudio.rows import prediction_result
from backend.queue.training_queue import TrainingQueue
from backend.store.project_record import ProjectRecord, project_root, write_record
from backend.store.project_store import ProjectStore
from backend.workers import jobs
from scripts import review
from tests.integration.conftest import Stack
from tests.integration.labelstudio.receiver import SECRET, Receiver, backends, receiving, webhooks
from tests.integration.people import pool_of
from tests.patience import PATIENCE_S

TITLE = "A project under test whose title is long, 48 now"


@pytest.fixture(scope="module")
def credentials(stack: Stack) -> tuple[str, str]:
    """Label Studio's address and a token."""
    settings = stack.settings
    return settings.label_studio_url, settings.label_studio_api_key.get_secret_value()


@pytest.fixture(scope="module")
def api(credentials: tuple[str, str]) -> Iterator[httpx.Client]:
    """A client with an administrator's token."""
    headers = {"Authorization": f"Token {credentials[1]}"}
    with httpx.Client(base_url=credentials[0], headers=headers, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def senior(api: httpx.Client) -> int:
    """The id of a user other than the one whose token the programs use."""
    name = f"senior-{uuid4()}"
    body = {"email": f"{name}@example.org", "username": name}
    return int(api.post("/api/users/", json=body).raise_for_status().json()["id"])


@pytest.fixture(scope="module")
def pool(stack: Stack) -> Pool:
    return pool_of(stack)


@pytest.fixture
def project(credentials: tuple[str, str], api: httpx.Client, pool: Pool) -> Iterator[ProjectSetup]:
    """One annotator gave three images the first class. The model predicts that class for the second
    image, and another class for the first image and, more confidently, for the third.
    """
    own = ProjectSetup(
        *credentials,
        create_project(*credentials, title=TITLE, label_config=label_config_xml(pool.classes)),
    )
    others = [0.0] * (len(pool.classes) - 2)
    own.import_tasks(
        [
            NewTask(i, {"image": "data:,", "image_id": i, "asked_probs": [p, 1 - p, *others]})
            for i, p in zip(pool.image_ids, (0.25, 0.75, 0.0625), strict=False)
        ]
    )
    for task in own.tasks():
        annotate(api, own, task.task_id, pool.classes[0])
    yield own
    api.delete(f"/api/projects/{own.project_id}/").raise_for_status()


@pytest.fixture
def settings(
    stack: Stack, tmp_path: Path, project: LabelStudioProject, pool: Pool, api: httpx.Client
) -> Iterator[Settings]:
    """Settings with a model folder that holds only this project."""
    own = stack.settings.model_copy(update={"model_dir": tmp_path})
    root = project_root(tmp_path, project.project_id)
    write_record(
        root,
        ProjectRecord(
            project_id=project.project_id,
            title=TITLE,
            label_studio_url=own.label_studio_url,
            project_created_at=project.created_at(),
            pool=pool.name,
            weights="none",
            seed=stack.settings.seed,
            classes=pool.classes,
        ),
    )
    yield own
    made = ProjectStore(root).facts().review_project
    if made is not None:
        api.delete(f"/api/projects/{made}/").raise_for_status()


@pytest.fixture
def run_review(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that runs `python -m scripts.review` and returns what it prints."""
    monkeypatch.setattr(review, "load_settings", lambda: settings)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["review", *arguments])
        exit_code = review.main()
        out, err = capsys.readouterr()
        assert exit_code == 0, err
        return out

    return run


@pytest.fixture
def collect(settings: Settings, project: LabelStudioProject) -> Callable[[], None]:
    """Return a function that collects reviews as the ranker does."""
    queue = TrainingQueue(settings.redis_url.get_secret_value())

    def run() -> None:
        jobs.STEPS["collect_reviews"](jobs.Work(settings, queue, project.project_id))

    return run


def annotate(
    api: httpx.Client, project: LabelStudioProject, task_id: int, label: str, **fields: Any
) -> int:
    """Submit an annotation and return its id."""
    body = {"result": prediction_result(project.label_config(), label), **fields}
    made = api.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()
    return int(made.json()["id"])


def review_project(settings: Settings, project: LabelStudioProject) -> LabelStudioProject:
    root = project_root(settings.model_dir, project.project_id)
    made = ProjectStore(root).facts().review_project
    assert made is not None
    return LabelStudioProject(
        settings.label_studio_url,
        settings.label_studio_api_key.get_secret_value(),
        made,
    )


def truths(project: LabelStudioProject, image_id: str) -> list[tuple[str | None, int | None]]:
    """Return label and annotator of an image's ground truths."""
    return [
        (a.label, a.annotator)
        for of_task in project.annotations().values()
        for a in of_task
        if a.image_id == image_id and a.is_ground_truth
    ]


def test_the_annotations_of_an_image_are_found_by_its_id_even_with_special_characters(
    project: LabelStudioProject, api: httpx.Client
) -> None:
    awkward = ["123", 'a/b c\'s "é" 100%.jpg', "null"]
    project.import_tasks([NewTask(i, {"image": "data:,", "image_id": i}) for i in awkward])
    by_image = {task.image_id: task.task_id for task in project.tasks()}
    assert [project.annotations_of(i) for i in awkward] == [{by_image[i]: []} for i in awkward]
    label = project.label_config().choices[1]
    annotate(api, project, by_image["123"], label)
    [[found]] = project.annotations_of("123").values()
    assert (found.image_id, found.label) == ("123", label)
    assert project.annotations_of("12") == {}


def test_the_list_starts_with_the_worst_label_and_names_who_contradicts_it(
    run_review: Callable[..., str], pool: Pool
) -> None:
    report = json.loads(run_review("--json"))
    assert [error["image_id"] for error in report["errors"]] == [
        pool.image_ids[2],
        pool.image_ids[0],
    ]
    assert [error["quality"] for error in report["errors"]] == pytest.approx([0.0625, 0.25])
    label, other = pool.classes[:2]
    assert {(e["label"], e["suggested"]) for e in report["errors"]} == {(label, other)}
    assert report["review_url"] is None
    reason = (
        f"one annotator chose {label}; "
        f"the model, not trained on this annotation, predicts {other} (94 %)"
    )
    assert reason in run_review("--count", "1")


def test_each_image_is_pushed_once_to_a_project_without_webhooks_and_predictions(
    run_review: Callable[..., str],
    settings: Settings,
    project: LabelStudioProject,
    pool: Pool,
    api: httpx.Client,
) -> None:
    worst, second = pool.image_ids[2], pool.image_ids[0]
    first_run = run_review("--push", "--count", "1")
    made = review_project(settings, project)
    assert f"pushed 1 for review: {settings.browser_url}/projects/" in first_run
    assert f"/projects/{made.project_id}/data" in first_run
    assert "pushed 1 for review" in run_review("--push", "--count", "1")  # the next one
    assert "all 2 doubtful labels are already in review" in run_review("--push")

    assert review_project(settings, project).project_id == made.project_id
    assert [task.image_id for task in made.tasks()] == [worst, second]
    assert all(task.is_open for task in made.open_tasks())
    assert made.model_versions() == []
    assert webhooks(api, made) == backends(api, made) == []
    assert made.title() == "A project under test whose title is long,: review"
    assert made.label_config() == project.label_config()
    asked = api.get(f"/api/projects/{made.project_id}/next").raise_for_status().json()
    assert asked["data"]["image_id"] == worst
    assert asked["data"]["image"].startswith("data:image/")
    assert asked["data"]["review_label"] == pool.classes[0]
    assert asked["predictions"] == []


def test_a_deleted_review_project_is_created_again(
    run_review: Callable[..., str],
    collect: Callable[[], None],
    settings: Settings,
    project: LabelStudioProject,
    api: httpx.Client,
    credentials: tuple[str, str],
) -> None:
    run_review("--push")
    deleted = review_project(settings, project).project_id
    api.delete(f"/api/projects/{deleted}/").raise_for_status()
    collect()
    assert find_project(*credentials, titles=[], project_id=deleted) is None
    assert "pushed 2 for review" in run_review("--push")
    made = review_project(settings, project)
    assert made.project_id != deleted
    assert len(made.tasks()) == 2


def test_a_review_becomes_ground_truth_in_the_reviewers_name_and_so_does_its_correction(
    run_review: Callable[..., str],
    collect: Callable[[], None],
    settings: Settings,
    project: ProjectSetup,
    pool: Pool,
    api: httpx.Client,
    senior: int,
) -> None:
    run_review("--push")
    made = review_project(settings, project)
    [task, untouched] = made.tasks()
    given = annotate(api, made, task.task_id, pool.classes[1], completed_by=senior)
    with receiving() as receiver:
        project.connect_webhook(f"{receiver.url}/webhook", SECRET)
        collect()
        collect()
        [event] = events(receiver)
        assert (event.kind, event.annotated) == ("annotations", (task.image_id,))
    assert truths(project, task.image_id) == [(pool.classes[1], senior)]
    assert truths(project, untouched.image_id) == []

    correction = prediction_result(made.label_config(), pool.classes[2])
    api.patch(f"/api/annotations/{given}/", json={"result": correction}).raise_for_status()
    # The listing itself collects reviews: the ranker need not have run.
    report = json.loads(run_review("--json"))
    assert report["collected"] == 1
    assert [error["image_id"] for error in report["errors"]] == [untouched.image_id]
    assert truths(project, task.image_id) == [(pool.classes[2], senior)]


def test_a_review_settles_a_task_that_awaits_a_second_opinion(
    run_review: Callable[..., str],
    collect: Callable[[], None],
    settings: Settings,
    project: ProjectSetup,
    pool: Pool,
    api: httpx.Client,
    senior: int,
) -> None:
    run_review("--push", "--count", "1")
    made = review_project(settings, project)
    [task] = made.tasks()
    [waiting] = project.annotations_of(task.image_id)
    project.reopen(waiting, 2)
    annotate(api, made, task.task_id, pool.classes[1], completed_by=senior)
    collect()
    assert waiting not in {t.task_id for t in project.open_tasks()}


def events(receiver: Receiver) -> list[WebhookEvent]:
    return [read_webhook(payload) for _, payload in receiver.events]
