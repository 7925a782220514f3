"""The ML backend over HTTP: set-up check, versions, access, the webhook, and errors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq import Queue

from backend.base.settings import Settings, load_settings
from backend.labelstudio.incoming import SECRET_HEADER
from backend.labelstudio.label_config import label_config_xml
from backend.queue.training_queue import Hints, TrainingQueue
from backend.rounds.decide import decide
from backend.rounds.observe import observe
from backend.web.serving import create_app
from tests.conftest import RedisServer
from tests.unit.web.conftest import (
    AUTH,
    CONFIG,
    PROJECT,
    SECRET,
    attach,
    event,
    predict,
    put_in_service,
    task,
)


def test_prediction_works_right_after_a_restart_without_setup(config: Settings, root: Path) -> None:
    put_in_service(root)
    assert predict(create_app(config).test_client(), task(1, image_id="img-a"))


def test_without_a_model_predict_says_so(client: FlaskClient) -> None:
    response = client.post(
        "/predict",
        auth=AUTH,
        json={"tasks": [task(1)], "project": "7.1", "label_config": CONFIG},
    )
    assert response.status_code == 503
    assert "no model yet" in response.get_json()["error"]


def test_a_label_config_with_other_classes_is_served_with_those_that_the_version_knows(
    client: FlaskClient, root: Path
) -> None:
    put_in_service(root)
    horses = label_config_xml(("horse", "CAT"))
    tasks = [task(1, image_id="img-a"), task(2, image_id="img-b")]
    body = {"project": "7.1", "schema": horses, "label_config": horses, "tasks": tasks}
    assert client.post("/setup", auth=AUTH, json=body).get_json() == {"model_version": "r0001"}
    response = client.post("/predict", auth=AUTH, json=body)
    found = [p["result"][0]["value"]["choices"] for p in response.get_json()["results"]]
    assert found == [["CAT"], ["CAT"]]


def test_a_label_config_that_cannot_be_used_is_refused_with_the_reason(
    client: FlaskClient, root: Path
) -> None:
    put_in_service(root)
    for path, key in (("/setup", "schema"), ("/predict", "label_config")):
        body = {"project": "7.1", key: "<View/>", "tasks": [task(1)]}
        response = client.post(path, auth=AUTH, json=body)
        assert response.status_code == 400
        assert "0 Image and 0 Choices tags" in response.get_json()["error"]


def test_setup_returns_the_version_in_service(client: FlaskClient, root: Path) -> None:
    body = {
        "project": "7.1795346887",
        "schema": CONFIG,
        "hostname": "http://evil",
        "access_token": "x",
    }
    assert client.post("/setup", auth=AUTH, json=body).get_json() == {"model_version": ""}
    put_in_service(root)
    assert client.post("/setup", auth=AUTH, json=body).get_json() == {"model_version": "r0001"}


@pytest.mark.parametrize("method", ["get", "post"])
def test_versions_are_listed_by_get_and_post(client: FlaskClient, root: Path, method: str) -> None:
    put_in_service(root, 1)
    put_in_service(root, 2)
    response = getattr(client, method)("/versions", auth=AUTH)
    assert response.get_json() == {"versions": ["r0001", "r0002"]}


@pytest.mark.parametrize(
    ("method", "path"),
    [("post", "/predict"), ("post", "/setup"), ("get", "/versions"), ("post", "/versions")],
)
@pytest.mark.parametrize("auth", [None, ("tightloop", "wrong"), ("wrong", "backend-pass")])
def test_the_ml_backends_routes_need_its_password(
    client: FlaskClient, method: str, path: str, auth: tuple[str, str] | None
) -> None:
    response = getattr(client, method)(
        path, auth=auth, **({"json": {}} if method == "post" else {})
    )
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic")
    # for a user who connects the model by hand in Label Studio
    assert "run `python -m scripts.setup_project --attach PROJECT_ID`" in response.text


@pytest.mark.parametrize("path", ["/health", "/"])
def test_health_is_for_anyone_and_says_nothing_about_the_machine(
    client: FlaskClient, path: str
) -> None:
    assert client.get(path).get_json() == {"status": "UP"}


@pytest.mark.parametrize("path", ["/train", "/is_training"])
def test_the_example_servers_training_routes_are_gone(client: FlaskClient, path: str) -> None:
    assert client.post(path, auth=AUTH, json={}).status_code == 404


@pytest.mark.parametrize(
    "headers", [{}, {SECRET_HEADER: ""}, {SECRET_HEADER: "wrong"}, {SECRET_HEADER: "é"}]
)
def test_a_webhook_without_the_secret_is_refused_and_changes_nothing(
    client: FlaskClient, config: Settings, headers: dict[str, str]
) -> None:
    assert client.post("/webhook", json=event(), headers=headers).status_code == 401
    queue = TrainingQueue(config.redis_url.get_secret_value())
    assert queue.hints(PROJECT) == Hints()
    assert queue.annotated_since(PROJECT, 0.0) == {}


def test_webhooks_name_what_was_annotated_and_have_the_project_looked_at_once(
    client: FlaskClient, config: Settings, redis_server: RedisServer
) -> None:
    queue = TrainingQueue(config.redis_url.get_secret_value())
    for image_id, action in (("a", "ANNOTATION_CREATED"), ("b", "ANNOTATION_UPDATED")):
        response = client.post("/webhook", json=event(action, image_id=image_id), headers=SECRET)
        assert response.get_json() == {"status": "counted"}
    assert queue.annotated_since(PROJECT, 0.0).keys() == {"a", "b"}
    connection = Redis.from_url(redis_server.url)
    assert Queue("rank", connection=connection).job_ids == ["rank-p7"]
    # A webhook only says that something happened, not what is due.
    assert Queue("train", connection=connection).job_ids == []


def test_a_webhook_of_an_attached_project_names_its_tasks(
    client: FlaskClient, config: Settings, root: Path
) -> None:
    attach(root)
    queue = TrainingQueue(config.redis_url.get_secret_value())
    assert client.post("/webhook", json=event(image_id="theirs"), headers=SECRET).status_code == 200
    assert [*queue.annotated_since(PROJECT, 0.0)] == ["ls-1"]


def test_two_million_annotations_in_one_webhook_make_nothing_due(
    client: FlaskClient, config: Settings, root: Path
) -> None:
    queue = TrainingQueue(config.redis_url.get_secret_value())
    payload = {**event("ANNOTATIONS_CREATED"), "annotation": [0] * 2_000_000}
    body = json.dumps(payload, separators=(",", ":"))
    assert client.post("/webhook", data=body, headers=SECRET).status_code == 200
    assert queue.annotated_since(PROJECT, 0.0) == {}
    state = observe(root, queue, PROJECT)
    assert state.n_new == 0
    assert decide(state, config, time.time() + 3600).train is None


def test_at_most_a_thousand_images_of_one_webhook_are_kept(
    client: FlaskClient, config: Settings
) -> None:
    tasks = [{"id": n, "data": {"image_id": f"img-{n}"}} for n in range(50_000)]
    payload = {**event("ANNOTATIONS_CREATED"), "annotation": [0], "task": tasks}
    assert client.post("/webhook", json=payload, headers=SECRET).status_code == 200
    queue = TrainingQueue(config.redis_url.get_secret_value())
    assert queue.annotated_since(PROJECT, 0.0).keys() == {f"img-{n}" for n in range(1_000)}


def test_a_webhook_reads_and_writes_no_database(client: FlaskClient, root: Path) -> None:
    there = {path.name for path in root.iterdir()}
    assert client.post("/webhook", json=event(image_id="a"), headers=SECRET).status_code == 200
    assert client.post("/webhook", json=event("START_TRAINING"), auth=AUTH).status_code == 200
    assert {path.name for path in root.iterdir()} == there


def test_start_training_comes_with_basic_auth_and_is_due_at_once(
    client: FlaskClient, config: Settings, root: Path
) -> None:
    response = client.post("/webhook", json=event("START_TRAINING"), auth=AUTH)
    assert response.status_code == 200
    queue = TrainingQueue(config.redis_url.get_secret_value())
    state = observe(root, queue, PROJECT)
    assert decide(state, config, time.time()).train == "retrain"


@pytest.mark.parametrize("payload", [event("PROJECT_UPDATED"), event("MADE_UP"), event(project=8)])
def test_events_that_do_not_concern_us_are_ignored_with_200(
    client: FlaskClient, payload: dict[str, Any]
) -> None:
    response = client.post("/webhook", json=payload, headers=SECRET)
    assert (response.status_code, response.get_json()["status"]) == (200, "ignored")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b"\xff\xfe", 400), (b" " * (5 * 1024**2 + 1), 413)],
)
def test_a_webhook_that_cannot_be_read_is_refused_without_a_traceback(
    client: FlaskClient, body: bytes, status: int
) -> None:
    response = client.post("/webhook", data=body, headers=SECRET, content_type="application/json")
    assert response.status_code == status
    assert "Traceback" not in response.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    action=st.sampled_from(
        ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED", "START_TRAINING", "X"]
    ),
    rest=st.dictionaries(
        st.sampled_from(["project", "annotation", "annotations", "task", "tasks"])
        | st.text(max_size=3),
        json_values,
    ),
)
def test_no_webhook_payload_crashes_the_backend(
    client: FlaskClient, action: str, rest: dict[str, Any]
) -> None:
    response = client.post("/webhook", data=json.dumps({**rest, "action": action}), headers=SECRET)
    assert response.status_code in (200, 400)


def test_an_unreachable_redis_gives_503_and_reveals_no_secret(
    client: FlaskClient, redis_server: RedisServer
) -> None:
    redis_server.stop()
    response = client.post("/webhook", json=event(), headers=SECRET)
    assert response.status_code == 503
    assert "REDIS_URL" in response.get_json()["error"]


def test_an_unreachable_model_folder_gives_503(client: FlaskClient, config: Settings) -> None:
    config.model_dir.rename(config.model_dir.with_name("unmounted"))
    response = client.post("/webhook", json=event(), headers=SECRET)
    assert response.status_code == 503
    assert "MODEL_DIR" in response.get_json()["error"]


def test_an_unexpected_error_shows_neither_traceback_nor_text(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr("backend.web.serving.read_event", crash)
    response = client.post("/webhook", json=event(), headers=SECRET)
    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text


def test_status_is_free_on_loopback_and_says_where_the_project_is(
    client: FlaskClient, root: Path
) -> None:
    put_in_service(root)
    client.post("/webhook", json=event(image_id="a"), headers=SECRET)
    [status] = client.get("/status").get_json()["projects"]
    assert (status["version"], status["round"], status["new_annotations"]) == ("r0001", 1, 1)
    assert status["validation"]["accuracy"] == 0.5
    assert status["workers"] == {"rank": 0, "train": 0}


def test_status_needs_the_dashboard_password_elsewhere(config: Settings) -> None:
    outside = config.model_copy(update={"backend_host": "0.0.0.0"})
    assert create_app(outside).test_client().get("/status").status_code == 401
    secret = load_settings(dashboard_password="dash").dashboard_password
    client = create_app(outside.model_copy(update={"dashboard_password": secret})).test_client()
    assert client.get("/status", auth=AUTH).status_code == 401
    assert client.get("/status", auth=("tightloop", "dash")).status_code == 200
