"""The ML backend over HTTP: predictions, access, the webhook, and bad input."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from redis import Redis
from rq import Queue

from backend.base.settings import Settings, load_settings
from backend.labelstudio.incoming import SECRET_HEADER
from backend.labelstudio.label_config import label_config_xml
from backend.network import resnet
from backend.network.inference import load_model, predict_probs
from backend.queue.training_queue import Hints, TrainingQueue
from backend.rounds.decide import decide
from backend.rounds.observe import observe, policy_of
from backend.store import pool_scores
from backend.store.project_record import ProjectRecord, project_root, write_record
from backend.store.registry import Registry
from backend.web.model_service import ModelService
from backend.web.resnet_backend import ResNetBackend
from backend.web.serving import create_app
from tests.conftest import RedisServer
from tests.unit.store.test_registry import meta

CLASSES = ("cat", "dog", "frog")
CONFIG = label_config_xml(("Frog", "Cat", "Dog"))  # another order and case than the model's
PROJECT = 7
AUTH = ("tightloop", "backend-pass")
SECRET = {SECRET_HEADER: "hook-secret"}
POOL_PROBS = np.array([[0.2, 0.7, 0.1], [0.4, 0.3, 0.3]], dtype=np.float32)


@pytest.fixture
def config(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = load_settings(
        _env_file=None,
        model_dir=tmp_path / "models",
        redis_url=redis_server.url,
        label_studio_url="http://127.0.0.1:9",
        label_studio_api_key="ls-token",
        backend_password="backend-pass",
        webhook_secret="hook-secret",
        retrain_after=2,
    )
    root = project_root(own.model_dir, PROJECT)
    write_record(
        root,
        ProjectRecord(
            project_id=PROJECT,
            title="Tightloop",
            label_studio_url=own.label_studio_url,
            project_created_at="2026",
            pool="digits",
            weights="none",
            seed=0,
            classes=CLASSES,
        ),
    )
    return own


@pytest.fixture
def root(config: Settings) -> Path:
    return project_root(config.model_dir, PROJECT)


@pytest.fixture
def client(config: Settings) -> FlaskClient:
    return create_app(config).test_client()


def put_in_service(root: Path, number: int = 1) -> None:
    state = {k: v.numpy() for k, v in resnet.build(3, None, seed=number).state_dict().items()}
    saved = Registry(root).save(state, meta(number, classes=CLASSES, image_size=32))
    pool_scores.save_pool_probs(root, saved.version, ("img-a", "img-b"), POOL_PROBS)
    Registry(root).promote(saved.version)


def png(color: tuple[int, int, int], size: tuple[int, int] = (20, 30)) -> str:
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def task(number: int, **data: str) -> dict[str, Any]:
    return {"id": number, "project": PROJECT, "data": data}


def predict(client: FlaskClient, *tasks: dict[str, Any]) -> list[Any]:
    response = client.post(
        "/predict",
        auth=AUTH,
        json={"tasks": tasks, "project": f"{PROJECT}.1795346887", "label_config": CONFIG,
              "params": {"login": None, "password": None, "context": None}},
    )  # fmt: skip
    assert response.status_code == 200, response.text
    results: list[Any] = response.get_json()["results"]
    return results


def event(
    action: str = "ANNOTATION_CREATED", project: int = PROJECT, image_id: str = ""
) -> dict[str, Any]:
    return {
        "action": action,
        "annotation": {"id": 1},
        "project": {"id": project},
        "task": {"id": 1, "data": {"image_id": image_id}},
    }


def test_pool_images_are_predicted_by_id_in_the_configs_spelling_with_their_confidence(
    client: FlaskClient, root: Path
) -> None:
    put_in_service(root)
    sure, unsure = predict(client, task(1, image_id="img-a"), task(2, image_id="img-b"))
    [region] = sure["result"]
    assert region["value"] == {"choices": ["Dog"]}
    assert (region["from_name"], region["to_name"], region["type"]) == ("label", "image", "choices")
    assert region["score"] == pytest.approx(0.7)
    assert (sure["score"], sure["model_version"]) == (pytest.approx(0.7), "r0001")
    assert unsure["score"] == pytest.approx(0.4)


def test_other_images_are_run_through_the_model(client: FlaskClient, root: Path) -> None:
    put_in_service(root)
    [prediction] = predict(client, task(1, image=png((250, 0, 0), (32, 32))))
    red = np.full((1, 32, 32, 3), (250, 0, 0), dtype=np.uint8)
    model = load_model(resnet.build(3, None, seed=1).state_dict(), 3, "cpu")
    expected = predict_probs(model, red, image_size=32, device="cpu")
    assert prediction["score"] == pytest.approx(float(expected.max()), abs=0.02)


def test_one_bad_image_loses_only_its_own_prediction(client: FlaskClient, root: Path) -> None:
    put_in_service(root)
    bad = task(2, image="data:image/png;base64,AAAA")
    elsewhere = task(3, image="http://169.254.169.254/latest/meta-data")
    predictions = predict(
        client, task(1, image_id="img-a"), bad, elsewhere, task(4), task(5, image=png((0, 9, 0)))
    )
    assert [bool(prediction["result"]) for prediction in predictions] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert [prediction["score"] is None for prediction in predictions] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_a_newly_promoted_version_is_served_from_the_next_request_on(
    client: FlaskClient, root: Path
) -> None:
    for number in (1, 2):
        put_in_service(root, number)
        other = task(2, image=png((1, 2, 3)))
        predictions = predict(client, task(1, image_id="img-a"), other)
        assert {prediction["model_version"] for prediction in predictions} == {f"r000{number}"}
    Registry(root).promote("r0001")
    assert predict(client, task(1, image_id="img-a"))[0]["model_version"] == "r0001"


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


def test_classes_that_do_not_match_are_refused_with_both_lists(
    client: FlaskClient, root: Path
) -> None:
    put_in_service(root)
    for path, key in (("/setup", "schema"), ("/predict", "label_config")):
        response = client.post(
            path,
            auth=AUTH,
            json={"project": "7.1", key: label_config_xml(("cat", "horse")), "tasks": [task(1)]},
        )
        assert response.status_code == 400
        assert "horse" in response.get_json()["error"]
        assert "frog" in response.get_json()["error"]


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
    assert queue.answered_since(PROJECT, 0.0) == {}


def test_webhooks_name_what_was_annotated_and_have_the_project_looked_at_once(
    client: FlaskClient, config: Settings, redis_server: RedisServer
) -> None:
    queue = TrainingQueue(config.redis_url.get_secret_value())
    for image_id, action in (("a", "ANNOTATION_CREATED"), ("b", "ANNOTATION_UPDATED")):
        response = client.post("/webhook", json=event(action, image_id=image_id), headers=SECRET)
        assert response.get_json() == {"status": "counted"}
    assert queue.answered_since(PROJECT, 0.0).keys() == {"a", "b"}
    connection = Redis.from_url(redis_server.url)
    assert Queue("rank", connection=connection).job_ids == ["rank-p7"]
    # A webhook only says that something happened, not what is due.
    assert Queue("train", connection=connection).job_ids == []


def test_two_million_annotations_in_one_webhook_make_nothing_due(
    client: FlaskClient, config: Settings, root: Path
) -> None:
    queue = TrainingQueue(config.redis_url.get_secret_value())
    payload = {**event("ANNOTATIONS_CREATED"), "annotation": [0] * 2_000_000}
    body = json.dumps(payload, separators=(",", ":"))
    assert client.post("/webhook", data=body, headers=SECRET).status_code == 200
    assert queue.answered_since(PROJECT, 0.0) == {}
    state = observe(root, queue, PROJECT)
    assert state.n_new == 0
    assert decide(state, policy_of(config), time.time() + 3600).train is None


def test_at_most_a_thousand_images_of_one_webhook_are_kept(
    client: FlaskClient, config: Settings
) -> None:
    tasks = [{"id": n, "data": {"image_id": f"img-{n}"}} for n in range(50_000)]
    payload = {**event("ANNOTATIONS_CREATED"), "annotation": [0], "task": tasks}
    assert client.post("/webhook", json=payload, headers=SECRET).status_code == 200
    queue = TrainingQueue(config.redis_url.get_secret_value())
    assert queue.answered_since(PROJECT, 0.0).keys() == {f"img-{n}" for n in range(1_000)}


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
    assert decide(state, policy_of(config), time.time()).train == "retrain"


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


BAD: dict[str, tuple[str, bytes, str]] = {
    "JSON nested 2,000 deep": ("/predict", b"[" * 2000, "recursion limit"),
    "JSON nested 2,000 deep in a webhook": ("/webhook", b"[" * 2000, "recursion limit"),
    "half a character in image_id": (
        "/predict",
        rb'{"project": "7.1", "tasks": [{"data": {"image_id": "\ud800"}}]}',
        "hex escape",
    ),
    "half a character in a webhook's image_id": (
        "/webhook",
        rb'{"action": "ANNOTATION_CREATED", "project": {"id": 7},'
        rb' "task": {"data": {"image_id": "\udc00"}}}',
        "surrogate",
    ),
    "half a character in the schema": (
        "/setup", rb'{"project": "7.1", "schema": "\ud800"}', "hex escape"
    ),
    "a number as label config": (
        "/predict", b'{"project": "7.1", "tasks": [], "label_config": 5}', "label_config"
    ),
    "a number as schema": ("/setup", b'{"project": "7.1", "schema": 5}', "schema"),
    "a text as a task's data": (
        "/predict", b'{"project": "7.1", "tasks": [{"data": "abc"}]}', "tasks.0"
    ),
    "a text as a task": ("/predict", b'{"project": "7.1", "tasks": ["abc"]}', "tasks.0"),
    "no tasks": ("/predict", b'{"project": "7.1"}', "tasks"),
    "an unknown entity": (
        "/setup", b'{"project": "7.1", "schema": "<View>&e;</View>"}', "is not XML"
    ),
    "an entity that it defines itself": (
        "/setup",
        b'{"project": "7.1", "schema": "<!DOCTYPE v [<!ENTITY e \\"x\\">]><View>&e;</View>"}',
        "is not XML",
    ),
    "a list for the versions": ("/versions", b"[1]", "the body"),
    "a text for the versions": ("/versions", b'"x"', "the body"),
    "a number for the versions": ("/versions", b"5", "the body"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_malformed_body_is_400_with_a_sentence(
    what: str, client: FlaskClient, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_in_service(root)
    path, body, sentence = BAD[what]
    response = client.post(path, data=body, auth=AUTH, headers=SECRET)
    assert response.status_code == 400, response.text
    assert sentence in response.get_json()["error"]
    assert "Traceback" not in caplog.text


def test_an_unreachable_redis_answers_503_and_says_nothing_secret(
    client: FlaskClient, redis_server: RedisServer
) -> None:
    redis_server.stop()
    response = client.post("/webhook", json=event(), headers=SECRET)
    assert response.status_code == 503
    assert "REDIS_URL" in response.get_json()["error"]


def test_an_unreachable_model_folder_answers_503(client: FlaskClient, config: Settings) -> None:
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


@pytest.mark.parametrize(
    "construct",
    [
        lambda service: ResNetBackend(label_config=CONFIG, train_output={}, service=service),
        lambda service: ResNetBackend("7", CONFIG, service=service),
        lambda service: ResNetBackend(
            project_id="7.1795346887", label_config=CONFIG, service=service
        ),
    ],
    ids=["1.0.9", "2.x", "2.x with a time stamp"],
)
def test_the_model_class_can_be_called_in_the_shapes_of_both_versions(
    config: Settings, root: Path, construct: Callable[[ModelService], ResNetBackend]
) -> None:
    put_in_service(root)
    model = construct(ModelService(config))
    tasks = [task(1, image_id="img-a")]
    by_kwargs = model.predict(tasks, login=None, password=None, context=None)
    assert model.predict(tasks, context=None) == model.predict(tasks) == by_kwargs
    assert (
        model.fit("ANNOTATION_CREATED", {}) == model.fit((), event="X", data={}, job_id="1") == {}
    )
