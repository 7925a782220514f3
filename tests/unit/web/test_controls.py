"""Who may use the backend's routes for the buttons of a published dashboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis
from rq import Queue

from backend.base.settings import Settings, load_settings
from backend.queue.training_queue import Hints, TrainingQueue
from backend.store.finish_store import FinishStore
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.web import serving
from backend.web.backend_client import CONTROL_HEADER
from tests.conftest import RedisServer
from tests.unit.store.test_finish_store import FIRST, IMAGES, SAMPLE
from tests.unit.store.test_registry import meta, record, save

PROJECT = 7
LEAD = ("tightloop", "dash-pass")
SECRET = "control-secret"
PATHS = [f"/controls/{name}" for name in ("promote", "train", "rescan", "export", "finish")]


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> Settings:
    root = project_root(tmp_path / "models", PROJECT)
    write_record(root, record(PROJECT))
    for number in (1, 2):
        save(root, meta(number))
    Registry(root).promote("r0002")
    return load_settings(
        _env_file=None,
        model_dir=tmp_path / "models",
        redis_url=redis_server.url,
        label_studio_url="http://127.0.0.1:9",
        backend_host="0.0.0.0",
        backend_password="backend-pass",
        webhook_secret="hook-secret",
        dashboard_password="dash-pass",
        control_secret=SECRET,
    )


def in_service(settings: Settings) -> str:
    current = Registry(project_root(settings.model_dir, PROJECT)).current()
    assert current is not None
    return current.version


def is_untouched(redis_server: RedisServer) -> bool:
    """Return whether nothing is queued or requested."""
    connection = Redis.from_url(redis_server.url)
    waiting = [i for name in ("train", "rank") for i in Queue(name, connection=connection).job_ids]
    return not waiting and TrainingQueue(redis_server.url).hints(PROJECT) == Hints()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("secret", "login", "status"),
    [
        (None, LEAD, 401),
        ("", LEAD, 401),
        ("wrong", LEAD, 401),
        ("é", LEAD, 401),
        (SECRET, None, 401),
        (SECRET, ("tightloop", "wrong"), 401),
        (SECRET, ("tightloop", "backend-pass"), 401),
    ],
)
def test_controls_need_both_the_secret_and_a_persons_login(
    settings: Settings,
    redis_server: RedisServer,
    path: str,
    secret: str | None,
    login: tuple[str, str] | None,
    status: int,
) -> None:
    backend = serving.create_app(settings).test_client()
    form = {"project": PROJECT, "version": "r0001", "max_error": 0.02}
    headers = {} if secret is None else {CONTROL_HEADER: secret}
    response = backend.post(path, data=form, auth=login, headers=headers)
    assert response.status_code == status
    assert response.get_json()["error"]
    assert in_service(settings) == "r0002"
    assert is_untouched(redis_server)


@pytest.mark.parametrize("path", PATHS)
def test_without_a_secret_the_controls_are_closed(
    settings: Settings, redis_server: RedisServer, path: str
) -> None:
    closed = settings.model_copy(update={"control_secret": SecretStr("")})
    backend = serving.create_app(closed).test_client()
    for headers in ({}, {CONTROL_HEADER: ""}, {CONTROL_HEADER: SECRET}):
        form = {"project": PROJECT, "version": "r0001", "max_error": 0.02}
        response = backend.post(path, data=form, auth=LEAD, headers=headers)
        assert response.status_code == 404
        assert "CONTROL_SECRET" in response.get_json()["error"]
    assert is_untouched(redis_server)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({}, 400),
        ({"project": "7.5"}, 400),
        ({"project": "9" * 5000}, 400),
        ({"project": "8"}, 404),
        ({"project": "7", "version": "x" * 20_000}, 413),
    ],
)
def test_a_bad_form_is_refused_with_a_sentence(
    settings: Settings, redis_server: RedisServer, form: dict[str, str], status: int
) -> None:
    backend = serving.create_app(settings).test_client()
    response = backend.post(
        "/controls/train", data=form, auth=LEAD, headers={CONTROL_HEADER: SECRET}
    )
    assert response.status_code == status
    assert response.get_json()["error"]
    assert is_untouched(redis_server)


def test_another_sites_page_cannot_use_the_controls_even_with_the_secret(
    settings: Settings,
) -> None:
    headers = {CONTROL_HEADER: SECRET, "Origin": "http://evil.example"}
    backend = serving.create_app(settings).test_client()
    response = backend.post("/controls/train", data={"project": 7}, auth=LEAD, headers=headers)
    assert response.status_code == 403


def test_new_images_are_looked_for_only_in_a_pool_that_may_change(
    settings: Settings, redis_server: RedisServer
) -> None:
    backend = serving.create_app(settings).test_client()

    def press() -> tuple[int, str]:
        headers = {CONTROL_HEADER: SECRET}
        response = backend.post("/controls/rescan", data={"project": 7}, auth=LEAD, headers=headers)
        return response.status_code, response.get_json().get("error", "")

    assert press() == (400, "POOL=digits never changes: there are no new images")
    assert is_untouched(redis_server)
    root = project_root(settings.model_dir, PROJECT)
    write_record(root, record(PROJECT).model_copy(update={"pool": "/birds"}))
    assert press() == (200, "")
    assert TrainingQueue(redis_server.url).hints(PROJECT).rescan_asked_at > 0


def test_labels_by_the_model_are_requested_unless_people_are_labeling_a_sample(
    settings: Settings, redis_server: RedisServer
) -> None:
    backend = serving.create_app(settings).test_client()
    root = project_root(settings.model_dir, PROJECT)

    def press(max_error: str) -> tuple[int, str]:
        headers, form = {CONTROL_HEADER: SECRET}, {"project": PROJECT, "max_error": max_error}
        response = backend.post("/controls/finish", data=form, auth=LEAD, headers=headers)
        return response.status_code, response.get_json().get("error", "")

    assert press("0")[0] == 400
    assert is_untouched(redis_server)
    assert press("0.02") == (200, "")
    assert ProjectStore(root).facts().finish_wanted == 0.02
    FinishStore(root).begin(FIRST, IMAGES, SAMPLE)
    assert press("0.05") == (
        400,
        "people are already labeling an acceptance sample: wait for the end",
    )
    assert ProjectStore(root).facts().finish_wanted == 0.02
