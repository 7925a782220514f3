"""The published dashboard: it reads without writing, and its buttons ask the backend over HTTP.

Redis runs here as docker-compose.yml starts it, and the clock has the project's database open.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from werkzeug.serving import make_server

from backend.base.errors import SettingsError
from backend.base.settings import Settings, load_settings
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import decide
from backend.rounds.observe import observe
from backend.store.exports import labels_path
from backend.store.project_record import project_root, write_record
from backend.store.project_rows import OpenImage
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.web import dashboard, serving
from tests.compose_redis import ComposeRedis, running_redis
from tests.conftest import REDIS_EXECUTABLE
from tests.patience import PATIENCE_S
from tests.unit.store.test_registry import meta, record, save
from tests.unit.web.test_status import files, keep_reading

ROOT = Path(__file__).parents[3]
NOBODY = 65_534
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
def models() -> Iterator[Path]:
    """A model folder that other users reach as well; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="tightloop-models-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def settings(team_redis: ComposeRedis, models: Path) -> Settings:
    """What the backend's container has."""
    root = project_root(models, PROJECT)
    write_record(root, record(PROJECT))
    for number in (1, 2):
        save(root, meta(number))
    Registry(root).promote("r0002")
    return load_settings(
        _env_file=None,
        model_dir=models,
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
def client(published: Settings, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr("backend.web.page_cache.PAGE_LIFETIME_S", 0.0)
    return dashboard.create_app(published).test_client()


def press(client: FlaskClient, button: str, **form: Any) -> Any:
    """Press a button as the page does."""
    form = {"project": PROJECT, **form}
    response = client.post(f"/dashboard/{button}", data=form, auth=LEAD)
    shown = response.text + str(response.headers)
    assert not [secret for secret in SECRETS if secret in shown]
    return response


def in_service(settings: Settings) -> str:
    current = Registry(project_root(settings.model_dir, PROJECT)).current()
    assert current is not None
    return current.version


def jobs(team_redis: ComposeRedis) -> list[str]:
    """Return the names of the queued jobs."""
    connection = Redis.from_url(team_redis.url)
    return [job for name in ("train", "rank") for job in Queue(name, connection=connection).job_ids]


# Runs in another process: others see who has a database open and what is not written back yet.
CLOCK = """
import sys
from pathlib import Path
from backend.store.project_db import connect
from backend.store.project_store import ProjectStore
root = Path(sys.argv[1])
keeper = connect(root)
print("open", flush=True)
for message in sys.stdin:
    ProjectStore(root).record_error("training", message.strip())
    print("kept", flush=True)
"""


@contextmanager
def running_clock(root: Path) -> Iterator[Callable[[str], None]]:
    """Let another process hold the project's database open; yield a function that makes it record
    an error.
    """
    with subprocess.Popen(
        [sys.executable, "-c", CLOCK, str(root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as clock:
        assert clock.stdin is not None
        assert clock.stdout is not None
        stdin, stdout = clock.stdin, clock.stdout

        def keep_error(message: str) -> None:
            stdin.write(f"{message}\n")
            stdin.flush()
            assert stdout.readline() == "kept\n"

        try:
            assert stdout.readline() == "open\n"
            yield keep_error
            stdin.close()
            clock.wait(PATIENCE_S)
        finally:
            clock.kill()


@contextmanager
def mounted_read_only(folder: Path, team_redis: ComposeRedis) -> Iterator[None]:
    """Make a folder read-only even for us, as the models are in the dashboard's container.

    Root may write anywhere, so it runs as another user meanwhile.
    """
    is_root = os.geteuid() == 0
    modes = {path: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    team_redis.socket.parent.chmod(0o755)
    team_redis.socket.chmod(0o777)
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


# Reading


def test_the_whole_page_is_shown_without_writing_anything(
    client: FlaskClient, settings: Settings, queue: TrainingQueue, team_redis: ComposeRedis
) -> None:
    connection = Redis.from_url(team_redis.url)
    for name in ("train", "rank"):
        worker = SimpleWorker([name], connection=connection, serializer="json")
        worker.register_birth()  # type: ignore[no-untyped-call]
    connection.sadd("rq:workers:train", "rq:worker:killed")
    open_images = [
        OpenImage(
            image_id=name, confidence=0.1, guesses=((label, 0.6),), is_again=False, picture="data:,"
        )
        for name, label in (("a", "frog"), ("b", "bird"))
    ]
    root = project_root(settings.model_dir, PROJECT)
    keep_reading(root, annotations=61, n_open=18, new=2)
    store = ProjectStore(root)
    store.record_open_images(time.time(), open_images)
    queue.hint(PROJECT, time.time() + 1, ["a"])
    queue.record_health("label_studio", "it does not answer: start it", time.time(), 60)
    queue.record_tick(time.time())
    queue.enqueue("retrain", PROJECT)
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    job.set_status("started")  # type: ignore[arg-type]
    queue.report_progress(job, "training", 20, 80)
    with running_clock(root) as keep_error:
        client.get("/dashboard", auth=LEAD)  # loads modules and fonts
        client.get("/dashboard/curve.svg", auth=LEAD)
        keep_error("the disk is full: free space")
        before = {key: connection.dump(key) for key in connection.keys()}  # noqa: SIM118
        kept = files(settings.model_dir)
        names = {path.name for path in root.iterdir() if path.is_file()}
        with mounted_read_only(settings.model_dir, team_redis):
            page = client.get("/dashboard", auth=LEAD)
            status = client.get("/status", auth=LEAD)
            curve = client.get("/dashboard/curve.svg", auth=LEAD)
            metrics = client.get("/metrics", auth=LEAD)
        assert files(settings.model_dir) == kept
    after = {key: connection.dump(key) for key in connection.keys()}  # noqa: SIM118
    assert after == before
    assert names == {"project.json", "current", "project.db", "project.db-wal", "project.db-shm"}

    assert page.status_code == 200
    for text in ("training, 20 of 80", "the disk is full", "bird 60%", "it does not answer"):
        assert text in page.text
    assert "frog 60%" not in page.text  # it has been annotated since
    [project] = status.get_json()["projects"]
    assert project["workers"] == {"train": 1, "rank": 1}  # without the killed one
    assert (project["annotations"], project["open_tasks"]) == (61, 18)
    assert project["new_annotations"] == 3
    assert curve.status_code == 200
    assert 'tightloop_workers{queue="train"} 1.0' in metrics.text
    assert 'tightloop_open_tasks{project="7"} 18.0' in metrics.text


def test_before_the_database_exists_nothing_is_known_and_reading_creates_no_file(
    client: FlaskClient, settings: Settings, team_redis: ComposeRedis
) -> None:
    def ask() -> list[Any]:
        paths = ("/dashboard", "/status", "/dashboard/curve.svg", "/metrics")
        return [client.get(path, auth=LEAD) for path in paths]

    kept = files(settings.model_dir)
    ask()  # here it could write; also loads modules and fonts
    assert files(settings.model_dir) == kept
    with mounted_read_only(settings.model_dir, team_redis):
        page, status, curve, metrics = ask()
    assert files(settings.model_dir) == kept
    assert {response.status_code for response in (page, status, curve, metrics)} == {200}
    assert "<dt>open tasks</dt><dd>?</dd>" in page.text
    assert "No image is open yet" in page.text
    [project] = status.get_json()["projects"]
    assert (project["version"], project["new_annotations"]) == ("r0002", 0)
    for name in ("annotations", "skipped", "open_tasks", "asked_again", "waiting_for"):
        assert project[name] is None
    for name in ("annotators", "next_images", "errors"):
        assert project[name] == []
    assert "tightloop_open_tasks" not in metrics.text


def test_the_database_of_a_killed_clock_is_read_and_left_as_it_is_even_if_writable(
    client: FlaskClient, settings: Settings
) -> None:
    root = project_root(settings.model_dir, PROJECT)
    with running_clock(root) as keep_error:
        keep_error("the disk is full: free space")
        left = {path.name: path.read_bytes() for path in root.glob("project.db*")}
    for name, content in left.items():  # undo what the clock cleaned up when it ended
        (root / name).write_bytes(content)
    kept = files(settings.model_dir)
    assert "the disk is full" in client.get("/dashboard", auth=LEAD).text
    shared = str(root / "project.db-shm")  # records the readers
    assert files(settings.model_dir) | {shared: 0} == kept | {shared: 0}
    assert (root / "project.db-wal").read_bytes() == left["project.db-wal"] != b""


def test_without_the_clock_the_page_shows_the_last_known_state(
    client: FlaskClient, settings: Settings, team_redis: ComposeRedis
) -> None:
    ProjectStore(project_root(settings.model_dir, PROJECT)).record_error(
        "training", "the disk is full: free space"
    )
    client.get("/dashboard", auth=LEAD)  # loads modules and fonts
    for path in settings.model_dir.rglob("project.db-*"):  # which it could create
        path.unlink()
    kept = files(settings.model_dir)
    with mounted_read_only(settings.model_dir, team_redis):
        page = client.get("/dashboard", auth=LEAD)
        [project] = client.get("/status", auth=LEAD).get_json()["projects"]
    assert files(settings.model_dir) == kept
    assert page.status_code == 200
    assert [error["message"] for error in project["errors"]] == ["the disk is full: free space"]


# Buttons


def test_the_button_puts_a_version_in_service_through_the_backend(
    client: FlaskClient, settings: Settings, queue: TrainingQueue, team_redis: ComposeRedis
) -> None:
    root = project_root(settings.model_dir, PROJECT)
    keep_reading(root, n_open=20, at=time.time())
    ProjectStore(root).record(ordered_by="r0002")
    response = press(client, "promote", version="r0001")
    assert (response.status_code, response.location) == (303, "/dashboard?project=7")
    assert in_service(settings) == "r0001"
    assert jobs(team_redis) == ["rank-p7"]
    assert decide(observe(root, queue, PROJECT), settings, time.time()).rank == "refresh"
    assert "r0001 in service" in client.get("/dashboard", auth=LEAD).text


def test_the_button_starts_a_training_through_the_backend(
    client: FlaskClient, settings: Settings, queue: TrainingQueue, team_redis: ComposeRedis
) -> None:
    assert press(client, "train").status_code == 303
    assert jobs(team_redis) == ["rank-p7"]
    state = observe(project_root(settings.model_dir, PROJECT), queue, PROJECT)
    assert state.is_training_asked
    assert decide(state, settings, time.time()).train == "retrain"


def test_labels_are_exported_through_the_backend_and_read_from_the_read_only_folder(
    client: FlaskClient, settings: Settings, team_redis: ComposeRedis
) -> None:
    root = project_root(settings.model_dir, PROJECT)
    assert press(client, "export").status_code == 303
    assert ProjectStore(root).facts().export_asked_at > 0
    assert jobs(team_redis) == ["rank-p7"]
    labels_path(root).parent.mkdir()
    labels_path(root).write_text("image,label\na.jpg,cat\n")
    path = f"/dashboard/labels.csv?project={PROJECT}"
    with mounted_read_only(settings.model_dir, team_redis):
        assert client.get(path).status_code == 401
        sent = client.get(path, auth=LEAD)
        assert (sent.status_code, sent.text) == (200, "image,label\na.jpg,cat\n")
        sent.close()


def test_labels_by_the_model_are_requested_through_the_backend(
    client: FlaskClient, settings: Settings, team_redis: ComposeRedis
) -> None:
    assert press(client, "finish", max_error="0.05").status_code == 303
    assert ProjectStore(project_root(settings.model_dir, PROJECT)).facts().finish_wanted == 0.05
    assert jobs(team_redis) == ["rank-p7"]


@pytest.mark.parametrize(
    ("button", "form"),
    [
        ("finish", {"max_error": "0"}),
        ("finish", {"max_error": "x"}),
        ("export", {"project": 8}),
        ("promote", {"version": "r0009"}),
        ("promote", {"version": ""}),
        ("promote", {"version": "../../etc"}),
        ("promote", {"version": "<b>\0é"}),
        ("train", {"project": 8}),
        ("train", {"project": "x"}),
        ("train", {"project": ""}),
    ],
)
def test_a_button_that_fails_gives_the_same_reason_as_the_backends_own_page(
    client: FlaskClient, settings: Settings, team_redis: ComposeRedis, button: str, form: Any
) -> None:
    own = press(serving.create_app(settings).test_client(), button, **form)
    asked = press(client, button, **form)
    assert (asked.status_code, refusal(asked.text)) == (own.status_code, refusal(own.text))
    assert own.status_code in (400, 404)
    assert in_service(settings) == "r0002"
    assert not jobs(team_redis)


def refusal(page: str) -> str:
    """Return the refusal that a page shows, or the whole response if it is not a page."""
    return page.split('id="refused"')[1].split("</p>")[0] if 'id="refused"' in page else page


def test_damaged_files_are_reported_as_the_backend_reports_them(
    client: FlaskClient, settings: Settings
) -> None:
    root = project_root(settings.model_dir, PROJECT)
    (root / "r0001" / "model.safetensors").write_bytes(b"damaged")
    own = press(serving.create_app(settings).test_client(), "promote", version="r0001")
    asked = press(client, "promote", version="r0001")
    assert (asked.status_code, refusal(asked.text)) == (own.status_code, refusal(own.text))
    assert asked.status_code == 503


def test_without_the_backend_a_button_says_so_and_changes_nothing(
    published: Settings, settings: Settings
) -> None:
    away = published.model_copy(update={"backend_url": "http://127.0.0.1:9"})
    response = press(dashboard.create_app(away).test_client(), "promote", version="r0001")
    assert response.status_code == 503
    assert "http://127.0.0.1:9 does not respond" in refusal(response.text)
    assert in_service(settings) == "r0002"


def test_a_secret_other_than_the_backends_is_reported_and_changes_nothing(
    published: Settings, team_redis: ComposeRedis
) -> None:
    other = published.model_copy(update={"control_secret": SecretStr("another")})
    response = press(dashboard.create_app(other).test_client(), "train")
    assert response.status_code == 503
    assert "the same CONTROL_SECRET" in refusal(response.text)
    assert not jobs(team_redis)


def test_it_does_not_start_without_its_secret(published: Settings) -> None:
    with pytest.raises(SettingsError, match="CONTROL_SECRET"):
        dashboard.create_app(published.model_copy(update={"control_secret": SecretStr("")}))
