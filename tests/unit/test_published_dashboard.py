"""The published dashboard: it reads without writing, and its buttons ask the backend over HTTP.

Redis runs here as docker-compose.yml starts it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from werkzeug.serving import make_server

from backend import dashboard, registry, serving
from backend.errors import SettingsError
from backend.settings import Settings, load_settings
from backend.training_queue import TrainingQueue
from tests.compose_redis import ComposeRedis, running_redis
from tests.conftest import REDIS_EXECUTABLE
from tests.unit.test_registry import meta, record, save

PROJECT = 7
LEAD = ("tightloop", "dash-päss")
SECRET = "control-secret"
SECRETS = (SECRET, "dash-päss", "redis-pass", "reader-pass", "hook-secret", "backend-pass")


@pytest.fixture(scope="module")
def _redis_of_compose() -> Iterator[ComposeRedis]:
    with running_redis(REDIS_EXECUTABLE) as server:
        yield server


@pytest.fixture
def team_redis(_redis_of_compose: ComposeRedis) -> ComposeRedis:
    Redis.from_url(_redis_of_compose.url).flushall()
    return _redis_of_compose


@pytest.fixture
def queue(team_redis: ComposeRedis) -> TrainingQueue:
    return TrainingQueue(team_redis.url)


@pytest.fixture
def settings(team_redis: ComposeRedis, tmp_path: Path) -> Settings:
    """What the backend's container has."""
    root = registry.project_root(tmp_path / "models", PROJECT)
    registry.write_record(root, record(PROJECT))
    for number in (1, 2):
        save(root, meta(number))
    registry.promote(root, "r0002")
    return load_settings(
        _env_file=None,
        model_dir=tmp_path / "models",
        redis_url=team_redis.url,
        label_studio_url="http://127.0.0.1:9",
        backend_host="0.0.0.0",
        backend_password="backend-pass",
        webhook_secret="hook-secret",
        dashboard_password=LEAD[1],
        control_secret=SECRET,
    )


@pytest.fixture
def backend_url(settings: Settings) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, serving.create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def published(settings: Settings, team_redis: ComposeRedis, backend_url: str) -> Settings:
    """What the dashboard's container has."""
    return load_settings(
        _env_file=None,
        model_dir=settings.model_dir,
        redis_url=team_redis.dashboard_url,
        label_studio_url="http://127.0.0.1:9",
        backend_host="0.0.0.0",
        backend_url=backend_url,
        dashboard_password=LEAD[1],
        control_secret=SECRET,
    )


@pytest.fixture
def client(published: Settings) -> FlaskClient:
    return dashboard.create_app(published).test_client()


def press(client: FlaskClient, button: str, **form: Any) -> Any:
    """Press a button as the page does."""
    form = {"project": PROJECT, **form}
    answer = client.post(f"/dashboard/{button}", data=form, auth=LEAD)
    shown = answer.text + str(answer.headers)
    assert not [secret for secret in SECRETS if secret in shown]
    return answer


def in_service(settings: Settings) -> str:
    current = registry.current(registry.project_root(settings.model_dir, PROJECT))
    assert current is not None
    return current.version


def jobs(team_redis: ComposeRedis) -> list[str]:
    """Names of what waits."""
    connection = Redis.from_url(team_redis.url)
    return [job for name in ("train", "rank") for job in Queue(name, connection=connection).job_ids]


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


# What it reads


def test_the_whole_page_is_read_without_writing_anything(
    client: FlaskClient, settings: Settings, queue: TrainingQueue, team_redis: ComposeRedis
) -> None:
    connection = Redis.from_url(team_redis.url)
    for name in ("train", "rank"):
        worker = SimpleWorker([name], connection=connection, serializer="json")
        worker.register_birth()  # type: ignore[no-untyped-call]
    connection.sadd("rq:workers:train", "rq:worker:killed")
    open_images = [
        registry.OpenImage(
            image_id=name, confidence=0.1, guesses=((label, 0.6),), is_again=False, picture="data:,"
        )
        for name, label in (("a", "frog"), ("b", "bird"))
    ]
    root = registry.project_root(settings.model_dir, PROJECT)
    registry.write_open_images(root, datetime.now(UTC), open_images)
    queue.note_changes(PROJECT, 3, time.time() + 1, answered=["a"])
    queue.note_facts(PROJECT, {"annotations": 61, "open": 18})
    queue.note_error(PROJECT, "training", "the disk is full: free space")
    queue.note_health("label_studio", "it does not answer: start it", time.time(), 60)
    queue.note_tick(time.time())
    queue.enqueue_retrain(PROJECT)
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    job.set_status("started")  # type: ignore[arg-type]
    queue.report_progress(job, "training", 20, 80)
    before = {key: connection.dump(key) for key in connection.keys()}  # noqa: SIM118
    kept = files(settings.model_dir)

    page = client.get("/dashboard", auth=LEAD)
    assert page.status_code == 200
    for told in ("training, 20 of 80", "the disk is full", "bird 60%", "it does not answer"):
        assert told in page.text
    assert "frog 60%" not in page.text  # somebody answered it
    status = client.get("/status", auth=LEAD).get_json()
    [project] = status["projects"]
    assert project["workers"] == {"train": 1, "rank": 1}  # not the one that was killed
    assert project["new_annotations"] == 3
    assert client.get("/dashboard/curve.svg", auth=LEAD).status_code == 200
    metrics = client.get("/metrics", auth=LEAD)
    assert 'tightloop_workers{queue="train"} 1.0' in metrics.text
    after = {key: connection.dump(key) for key in connection.keys()}  # noqa: SIM118
    assert after == before
    assert files(settings.model_dir) == kept


# What its buttons do


def test_a_press_puts_a_version_in_service_through_the_backend(
    client: FlaskClient, settings: Settings, team_redis: ComposeRedis
) -> None:
    answer = press(client, "promote", version="r0001")
    assert (answer.status_code, answer.location) == (303, "/dashboard?project=7")
    assert in_service(settings) == "r0001"
    assert jobs(team_redis) == ["refresh-p7"]
    assert "r0001 in service" in client.get("/dashboard", auth=LEAD).text


def test_a_press_starts_a_training_through_the_backend(
    client: FlaskClient, queue: TrainingQueue, team_redis: ComposeRedis
) -> None:
    assert press(client, "train").status_code == 303
    assert jobs(team_redis) == ["retrain-p7"]
    assert queue.generation(PROJECT).is_forced


@pytest.mark.parametrize(
    ("button", "form"),
    [
        ("promote", {"version": "r0009"}),
        ("promote", {"version": ""}),
        ("promote", {"version": "../../etc"}),
        ("promote", {"version": "<b>\0é"}),
        ("train", {"project": 8}),
        ("train", {"project": "x"}),
        ("train", {"project": ""}),
    ],
)
def test_a_press_in_vain_says_here_what_the_backends_own_page_says(
    client: FlaskClient, settings: Settings, team_redis: ComposeRedis, button: str, form: Any
) -> None:
    own = press(serving.create_app(settings).test_client(), button, **form)
    asked = press(client, button, **form)
    assert (asked.status_code, refusal(asked.text)) == (own.status_code, refusal(own.text))
    assert own.status_code in (400, 404)
    assert in_service(settings) == "r0002"
    assert not jobs(team_redis)


def refusal(page: str) -> str:
    """What the page says was in the way; of an answer that is no page all."""
    return page.split('id="refused"')[1].split("</p>")[0] if 'id="refused"' in page else page


def test_damaged_files_are_told_as_the_backend_tells_them(
    client: FlaskClient, settings: Settings
) -> None:
    root = registry.project_root(settings.model_dir, PROJECT)
    (root / "r0001" / "model.safetensors").write_bytes(b"damaged")
    own = press(serving.create_app(settings).test_client(), "promote", version="r0001")
    asked = press(client, "promote", version="r0001")
    assert (asked.status_code, refusal(asked.text)) == (own.status_code, refusal(own.text))
    assert asked.status_code == 503


def test_without_the_backend_a_press_says_so_and_changes_nothing(
    published: Settings, settings: Settings
) -> None:
    away = published.model_copy(update={"backend_url": "http://127.0.0.1:9"})
    answer = press(dashboard.create_app(away).test_client(), "promote", version="r0001")
    assert answer.status_code == 503
    assert "http://127.0.0.1:9 does not answer" in refusal(answer.text)
    assert in_service(settings) == "r0002"


def test_another_secret_than_the_backends_is_said_and_changes_nothing(
    published: Settings, team_redis: ComposeRedis
) -> None:
    other = published.model_copy(update={"control_secret": SecretStr("another")})
    answer = press(dashboard.create_app(other).test_client(), "train")
    assert answer.status_code == 503
    assert "the same CONTROL_SECRET" in refusal(answer.text)
    assert not jobs(team_redis)


def test_it_does_not_start_without_its_secret(published: Settings) -> None:
    with pytest.raises(SettingsError, match="CONTROL_SECRET"):
        dashboard.create_app(published.model_copy(update={"control_secret": SecretStr("")}))
