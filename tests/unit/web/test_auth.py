"""Who may read, who may change things, and what other sites cannot do."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from redis import Redis
from rq import Queue
from werkzeug.datastructures import Headers

from backend.base.settings import Settings, load_settings
from backend.labelstudio.incoming import SECRET_HEADER
from backend.queue.own_jobs import QUEUES
from backend.queue.training_queue import Hints, TrainingQueue
from backend.store.project_record import project_root, write_record
from backend.store.registry import Registry
from backend.web import dashboard, serving
from backend.web.auth import Auth
from tests.conftest import RedisServer
from tests.unit.store.test_registry import meta, record
from tests.unit.store.test_registry import save as save_version

PROJECT = 7
LEAD = ("tightloop", "dash-pass")
READ = ("/dashboard", "/status", "/metrics", "/dashboard/curve.svg")
CHANGE = ("/dashboard/train", "/dashboard/promote", "/dashboard/rescan")


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer) -> Settings:
    """Return settings as `make up` makes them: only changing things takes a password."""
    root = project_root(tmp_path, PROJECT)
    write_record(root, record(PROJECT))
    for number in (1, 2):
        save_version(root, meta(number))
    Registry(root).promote("r0002")
    return load_settings(
        _env_file=None,
        model_dir=tmp_path,
        redis_url=redis_server.url,
        label_studio_url="http://127.0.0.1:9",
        backend_url="http://127.0.0.1:9",
        backend_password="backend-pass",
        webhook_secret="hook-secret",
        dashboard_password="dash-pass",
        dashboard_open=True,
    )


def client_of(settings: Settings, **changes: object) -> FlaskClient:
    return serving.create_app(settings.model_copy(update=changes)).test_client()


@pytest.fixture
def free(settings: Settings) -> FlaskClient:
    return client_of(settings)


@pytest.fixture
def guarded(settings: Settings) -> FlaskClient:
    """Return a client of a server whose password a person chose."""
    return client_of(settings, dashboard_open=False)


def train(client: FlaskClient, **headers: str) -> int:
    response = client.post(
        "/dashboard/train", data={"project": PROJECT}, auth=LEAD, headers=headers
    )
    return response.status_code


@pytest.mark.parametrize("path", READ)
def test_reading_is_free_on_loopback_unless_a_password_was_chosen(
    free: FlaskClient, guarded: FlaskClient, path: str
) -> None:
    assert free.get(path).status_code == 200
    refused = guarded.get(path)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    assert guarded.get(path, auth=("tightloop", "wrong")).status_code == 401
    assert guarded.get(path, auth=LEAD).status_code == 200


@pytest.mark.parametrize("path", READ)
def test_reading_under_another_host_name_takes_the_password(free: FlaskClient, path: str) -> None:
    assert free.get(path, headers={"Host": "evil.example"}).status_code == 401
    assert free.get(path, headers={"Host": "localhost:9090"}).status_code == 200
    assert free.get(path, headers={"Host": "[::1]:9090"}).status_code == 200
    assert free.get(path, headers={"Host": "[::1"}).status_code in (400, 401)


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "Forwarded",
        "Via",
        "X-Real-IP",
        "X-Client-IP",
        "True-Client-IP",
        "X-Original-Host",
        "X-Envoy-External-Address",
        "CF-Connecting-IP",
        "CDN-Loop",
    ],
)
def test_reading_through_a_proxy_takes_the_password(free: FlaskClient, header: str) -> None:
    assert free.get("/status", headers={header: "for=203.0.113.9"}).status_code == 401
    passed_on = free.get("/status", headers={header: "for=203.0.113.9"}, auth=LEAD)
    assert passed_on.status_code == 200


@pytest.mark.parametrize("path", READ)
def test_reading_from_other_machines_takes_the_password_even_if_the_dashboard_is_open(
    settings: Settings, path: str
) -> None:
    client = client_of(settings, backend_host="0.0.0.0")
    assert client.get(path).status_code == 401
    assert client.get(path, auth=LEAD).status_code == 200


@pytest.mark.parametrize("path", CHANGE)
def test_changing_anything_always_takes_the_password(
    free: FlaskClient, settings: Settings, redis_server: RedisServer, path: str
) -> None:
    for auth in (None, ("tightloop", "wrong"), ("tightloop", "backend-pass")):
        response = free.post(path, data={"project": PROJECT, "version": "r0001"}, auth=auth)
        assert response.status_code == 401
    connection = Redis.from_url(redis_server.url)
    assert not [job for name in QUEUES for job in Queue(name, connection=connection).job_ids]
    assert TrainingQueue(redis_server.url).hints(PROJECT) == Hints()
    current = Registry(project_root(settings.model_dir, PROJECT)).current()
    assert current is not None
    assert current.version == "r0002"
    assert free.get(path).status_code == 405


def test_without_any_password_nothing_can_be_changed(settings: Settings) -> None:
    client = client_of(settings, dashboard_password=SecretStr(""))
    for auth in (None, ("tightloop", "")):
        response = client.post("/dashboard/train", data={"project": PROJECT}, auth=auth)
        assert response.status_code == 401


def test_a_page_of_another_site_cannot_use_the_browsers_password(
    free: FlaskClient, redis_server: RedisServer
) -> None:
    assert train(free, **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert train(free, **{"Sec-Fetch-Site": "same-site"}) == 403
    assert train(free, Origin="http://evil.example") == 403
    assert train(free, Origin="null") == 403
    assert train(free, Origin="http://[") == 403
    assert train(free, Origin="http://localhost:8080") == 403  # nor can Label Studio's own pages
    # If a browser sends both, the header that no page can set decides.
    assert train(free, **{"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}) == 403
    assert TrainingQueue(redis_server.url).hints(PROJECT) == Hints()


def test_the_dashboards_own_page_and_a_script_can(
    free: FlaskClient, redis_server: RedisServer
) -> None:
    assert train(free, **{"Sec-Fetch-Site": "same-origin"}) == 303
    assert train(free, Origin="http://localhost") == 303
    assert train(free) == 303
    assert TrainingQueue(redis_server.url).hints(PROJECT).train_asked_at > 0


def test_the_published_dashboard_has_none_of_the_ml_backends_routes(
    settings: Settings,
) -> None:
    changes = {"backend_host": "0.0.0.0", "control_secret": SecretStr("control-secret")}
    app = dashboard.create_app(settings.model_copy(update=changes))
    routes = {rule.rule for rule in app.url_map.iter_rules()}
    assert routes == {
        "/", "/health", "/dashboard", "/dashboard/curve.svg", "/dashboard/promote",
        "/dashboard/train", "/dashboard/rescan", "/dashboard/labels.csv", "/dashboard/export",
        "/dashboard/finish", "/status", "/metrics", "/static/<path:filename>",
    }  # fmt: skip
    client = app.test_client()
    assert client.get("/health").get_json() == {"status": "UP"}
    assert client.get("/").location == "/dashboard"
    for path in READ:
        assert client.get(path).status_code == 401
    assert client.get("/dashboard", auth=LEAD).status_code == 200
    # Nothing listens at BACKEND_URL, so there are no metrics; the error holds no secret.
    response = client.get("/metrics", auth=LEAD)
    assert response.status_code == 503
    assert "DASHBOARD_PASSWORD" in response.text
    assert "dash-pass" not in response.text


def test_an_address_that_guesses_passwords_must_wait_unless_it_sends_the_right_one(
    guarded: FlaskClient,
) -> None:
    def guess(path: str = "/status", password: str = "wrong") -> int:
        return guarded.get(path, auth=("tightloop", password)).status_code

    assert [guess() for _ in range(10)] == [401] * 10
    assert guess() == 429
    assert guess("/versions") == 429
    assert guess(password="dash-pass") == 200
    webhook = {"action": "TASKS_CREATED"}
    response = guarded.post("/webhook", json=webhook, headers={SECRET_HEADER: "hook-secret"})
    assert response.status_code == 200
    other = {"REMOTE_ADDR": "10.0.0.7"}
    assert guarded.get("/status", auth=("x", "y"), environ_overrides=other).status_code == 401


def test_a_request_without_a_password_is_not_a_guess(guarded: FlaskClient) -> None:
    """A browser requests every page once without it."""
    assert {guarded.get("/status").status_code for _ in range(30)} == {401}


def test_a_strangers_body_is_not_read_and_each_known_sender_has_a_limit(
    settings: Settings,
) -> None:
    def login(user: str, password: str) -> Headers:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return Headers({"Authorization": f"Basic {token}"})

    auth = Auth(settings)
    label_studio = login("tightloop", "backend-pass")
    assert auth.body_limit("/predict", Headers()) == 0
    assert auth.body_limit("/predict", login("tightloop", "wrong")) == 0
    assert auth.body_limit("/webhook", Headers({SECRET_HEADER: "wrong"})) == 0
    assert auth.body_limit("/predict", label_studio) == 512 * 1024**2
    assert auth.body_limit("/setup", label_studio) == 5 * 1024**2
    assert auth.body_limit("/webhook", Headers({SECRET_HEADER: "hook-secret"})) == 5 * 1024**2
    assert auth.body_limit("/dashboard/train", login(*LEAD)) == 5 * 1024**2


def test_an_empty_webhook_secret_is_never_accepted(settings: Settings) -> None:
    auth = Auth(settings.model_copy(update={"webhook_secret": SecretStr("")}))
    assert auth.body_limit("/webhook", Headers({SECRET_HEADER: ""})) == 0
