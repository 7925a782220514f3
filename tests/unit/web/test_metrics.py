"""The metrics, checked by Prometheus' own parser, and the Grafana board that uses them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from rq import SimpleWorker
from rq.job import Job

from backend.base.settings import Settings
from backend.labelstudio.incoming import SECRET_HEADER
from backend.measures.evaluation import Evaluation
from backend.queue.training_queue import TrainingQueue
from backend.store.body_meta import BodyComparison
from backend.store.finish_store import FinishStore
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.web.metrics import GAUGES
from backend.web.serving import create_app
from tests.conftest import RedisServer
from tests.unit.store.test_bodies import save_body
from tests.unit.store.test_finish_store import FIRST, IMAGES, SAMPLE
from tests.unit.store.test_registry import meta, record
from tests.unit.store.test_registry import save as save_version
from tests.unit.web.conftest import (
    PROJECT,
    event,
    png,
    predict,
    put_in_service,
    settings_of,
    task,
)
from tests.unit.web.test_status import VALIDATED_BY_PEOPLE, files, keep_reading, keep_validation

BOARD = json.loads((Path(__file__).parents[3] / "docs/grafana.json").read_text())
SECRETS = ("backend-pass", "hook-secret", "ls-token", "dash-pass")
HOOK = {SECRET_HEADER: "hook-secret"}
COMPARED = BodyComparison(
    labels=50, validation_images=20, accuracy_before=0.5, accuracy_after=0.625, p_value=0.9
)
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.fixture
def config(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = settings_of(
        tmp_path, redis_server, dashboard_password="dash-pass", retrain_after=5, adapt=10.0
    )
    write_record(project_root(own.model_dir, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def root(config: Settings) -> Path:
    return project_root(config.model_dir, PROJECT)


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def client(config: Settings) -> FlaskClient:
    return create_app(config).test_client()


def page(client: FlaskClient) -> str:
    response = client.get("/metrics", auth=("tightloop", "dash-pass"))
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return response.text


def samples(client: FlaskClient) -> dict[str, dict[tuple[str, ...], float]]:
    """Return values by name without prefix, then by label values, the project's first."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page(client)):
        for sample in family.samples:
            name = sample.name.removeprefix("tightloop_")
            values = found.setdefault(name, {})
            ordered = sorted(sample.labels, key=lambda label: (label != "project", label))
            key = tuple(sample.labels[label] for label in ordered)
            assert key not in values, f"{sample.name} twice"
            values[key] = sample.value
    return found


def work(root: Path, queue: TrainingQueue, redis_server: RedisServer) -> None:
    """Give a project a value for every gauge."""
    measured = Evaluation(accuracy=0.75, log_loss=0.7, images=20)
    test = Evaluation(accuracy=0.625, log_loss=0.8, images=40)
    seconds = {"training": 12.5, "scoring the pool": 4.0}
    for version in (
        meta(1, labels=30, seconds={"training": 99.0}),
        meta(2, labels=50, validation=measured, test=test, seconds=seconds),
        meta(2, version="r0002h01", refused="worse", seconds={"training": 0.1}),
    ):
        save_version(root, version)
    Registry(root).promote("r0002")
    keep_reading(root, annotations=61, skipped=4, n_open=18, again=3, new=2)
    write_record(root, record(PROJECT).model_copy(update=VALIDATED_BY_PEOPLE))
    save_body(root, comparison=COMPARED)
    began = {"adapt_began_at": 2.0, "adapt_spent_s": 450.0, "adapt_budget_s": 1800.0}
    ProjectStore(root).record(adapted_at=1.0, adapted_images=600, adapt_failures=1, **began)
    queue.enqueue("retrain", PROJECT)
    queue.enqueue("rank", PROJECT)
    connection = Redis.from_url(redis_server.url)
    worker = SimpleWorker(["train"], connection=connection, serializer="json")
    worker.register_birth()  # type: ignore[no-untyped-call]
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    job.set_status("started")  # type: ignore[arg-type]
    ProjectStore(root).record(pool_images=900, undecoded_images=100, order_problem="another")
    for where, step in (("training", ""), ("training", "retrain"), ("asking", "")):
        ProjectStore(root).record_error(where, "dash-pass must not be seen", step=step)


def test_every_gauge_of_a_project_has_its_value(
    client: FlaskClient, root: Path, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    work(root, queue, redis_server)
    found = samples(client)
    gauges = {name: found[name] for name in GAUGES if name != "acceptance_sample"}
    jobs = gauges.pop("jobs")
    assert gauges == {
        "up": {("redis",): 1, ("model_folder",): 1},
        "workers": {("train",): 1, ("rank",): 0},
        "round": {("7",): 2},
        "trained_labels": {("7",): 50},
        "accuracy_ratio": {("7", "validation"): 0.75, ("7", "test"): 0.625},
        "accuracy_bound_ratio": {
            ("7", "low", "validation"): pytest.approx(0.531, abs=1e-3),
            ("7", "high", "validation"): pytest.approx(0.888, abs=1e-3),
            ("7", "low", "test"): pytest.approx(0.470, abs=1e-3),
            ("7", "high", "test"): pytest.approx(0.758, abs=1e-3),
        },
        "validation_labels": {("7", "labeled"): 0, ("7", "undecided"): 0, ("7", "pending"): 0},
        "validation_labels_wanted": {("7",): 200},
        "model_labels": {("7",): 0},
        "versions": {("7",): 3},
        "refused_versions": {("7",): 1},
        "training_phase_seconds": {("7", "training"): 12.5, ("7", "scoring the pool"): 4},
        "adapting_progress_ratio": {("7",): 0.25},
        "adapting_failed": {("7",): 1},
        "body_accuracy_ratio": {("7", "before"): 0.5, ("7", "after"): 0.625},
        "order_problem": {("7",): 1},
        "project_gone": {("7",): 0},
        "pool_images": {("7",): 900},
        "undecoded_images": {("7",): 100},
        "annotations": {("7",): 61},
        "skipped_annotations": {("7",): 4},
        "open_tasks": {("7",): 18},
        "asked_again_tasks": {("7",): 3},
        "new_annotations": {("7",): 2},
        "annotations_until_training": {("7",): 3},
        "kept_errors": {("7", "training"): 2, ("7", "asking"): 1},
        "ongoing_errors": {("7", "training"): 1, ("7", "asking"): 0},
    }
    assert {key for key, value in jobs.items() if value} == {
        ("7", "retrain", "started"), ("7", "rank", "queued"),
    }  # fmt: skip
    assert jobs["7", "refit", "queued"] == 0


def test_a_ranker_job_is_named_by_the_step_that_it_has_started(
    client: FlaskClient, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    queue.enqueue("rank", PROJECT)
    connection = Redis.from_url(redis_server.url)
    job = Job.fetch("rank-p7", connection=connection, serializer="json")
    job.set_status("started")  # type: ignore[arg-type]
    for step in ("read", "refresh", "finish", "top_up", "refit", "export", "collect_reviews"):
        queue.report_step(job, step)
        jobs = samples(client)["jobs"]
        assert {key for key, value in jobs.items() if value} == {("7", step, "started")}
        assert jobs["7", "rank", "started"] == 0


def test_unknown_values_are_left_out_and_reading_creates_no_file(
    client: FlaskClient, config: Settings, root: Path
) -> None:
    before = files(config.model_dir)
    found = samples(client)
    assert files(config.model_dir) == before
    assert [path.name for path in root.iterdir()] == ["project.json"]
    assert found["round"] == {("7",): 0}
    assert found["new_annotations"] == {("7",): 0}
    unknown = {
        "trained_labels", "accuracy_ratio", "training_phase_seconds", "annotations",
        "skipped_annotations", "open_tasks", "asked_again_tasks", "kept_errors", "pool_images",
        "accuracy_bound_ratio", "validation_labels", "validation_labels_wanted",
        "acceptance_sample", "ongoing_errors", "adapting_progress_ratio", "body_accuracy_ratio",
    }  # fmt: skip
    assert GAUGES.keys() - found.keys() == unknown


def test_an_acceptance_sample_is_counted_by_state_until_the_model_has_labels(
    client: FlaskClient, root: Path
) -> None:
    finish = FinishStore(root)
    finish.begin(FIRST, IMAGES, SAMPLE)
    finish.record_lost(1, SAMPLE[:1])
    found = samples(client)
    assert found["acceptance_sample"] == {
        ("7", "right"): 0,
        ("7", "error"): 1,
        ("7", "pending"): 1,
    }
    assert "model_labels" not in found
    finish.end(1, "passed", 0, 1.0)
    found = samples(client)
    assert found["model_labels"] == {("7",): 4}
    assert "acceptance_sample" not in found


def test_annotations_until_training_is_never_negative(client: FlaskClient, root: Path) -> None:
    keep_reading(root, annotations=9, new=9)
    assert samples(client)["annotations_until_training"] == {("7",): 0}


def test_validation_labels_are_counted_by_state(client: FlaskClient, root: Path) -> None:
    keep_validation(root, "cat", "dog", None, pending=4)
    assert samples(client)["validation_labels"] == {
        ("7", "labeled"): 2,
        ("7", "undecided"): 1,
        ("7", "pending"): 4,
    }


def test_each_project_has_its_own_label(client: FlaskClient, config: Settings) -> None:
    other = project_root(config.model_dir, 8)
    write_record(other, record(8))
    save_version(other, meta(3))
    assert samples(client)["round"] == {("7",): 0, ("8",): 3}


def test_webhooks_are_counted_by_outcome_and_status(
    client: FlaskClient, redis_server: RedisServer
) -> None:
    for payload in (event(), event(), event("PROJECT_UPDATED"), event(project=8)):
        client.post("/webhook", json=payload, headers=HOOK)
    client.post("/webhook", json=event())
    client.post("/webhook", data=b"{", headers=HOOK)
    redis_server.stop()
    client.post("/webhook", json=event(), headers=HOOK)
    redis_server.start()
    client.get("/health")
    found = samples(client)
    assert found["webhooks_total"] == {
        ("counted", "200"): 2,
        ("ignored", "200"): 2,
        ("refused", "401"): 1,
        ("refused", "400"): 1,
        ("failed", "503"): 1,
    }
    assert found["webhook_duration_seconds_count"] == {(): 7}


def test_webhook_durations_have_buckets_from_a_millisecond_to_a_second(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([10.0, 10.004, 20.0, 20.4, 30.0, 32.0])
    monkeypatch.setattr("backend.web.serving.time.perf_counter", lambda: next(moments, 0.0))
    for _ in range(3):
        client.post("/webhook", json=event("PROJECT_UPDATED"), headers=HOOK)
    found = samples(client)
    buckets = {float(key[0]): n for key, n in found["webhook_duration_seconds_bucket"].items()}
    assert (buckets[0.003], buckets[0.005], buckets[0.2], buckets[0.5]) == (0, 1, 1, 2)
    assert (buckets[1.0], buckets[float("inf")]) == (2, 3)
    assert min(buckets) == 0.001
    assert found["webhook_duration_seconds_sum"][()] == pytest.approx(2.404)


def test_predictions_and_unreadable_images_are_counted_separately(
    client: FlaskClient, root: Path
) -> None:
    put_in_service(root)
    for _ in range(2):
        predict(client, task(1, image_id="img-a"), task(2, image=png((9, 9, 9))), task(3))
    found = samples(client)
    assert found["predictions_total"] == {(): 4}
    assert found["unpredicted_images_total"] == {(): 2}


def test_two_apps_count_separately(client: FlaskClient, config: Settings) -> None:
    other = create_app(config).test_client()
    client.post("/webhook", json=event(), headers=HOOK)
    assert samples(client)["webhook_duration_seconds_count"] == {(): 1}
    assert samples(other)["webhook_duration_seconds_count"] == {(): 0}


def test_without_redis_the_process_still_reports_its_own_counts(
    client: FlaskClient, redis_server: RedisServer
) -> None:
    client.post("/webhook", json=event(), headers=HOOK)
    redis_server.stop()
    found = samples(client)
    assert found["up"] == {("redis",): 0, ("model_folder",): 1}
    assert found["webhooks_total"] == {("counted", "200"): 1}
    assert not GAUGES.keys() & found.keys() - {"up"}
    assert "Traceback" not in page(client)


@pytest.mark.parametrize("name", ["project.json", "project.db"])
def test_a_project_that_cannot_be_read_does_not_hide_others(
    client: FlaskClient, config: Settings, root: Path, name: str
) -> None:
    write_record(project_root(config.model_dir, 8), record(8))
    (root / name).write_text("{" * 5000)
    found = samples(client)
    assert found["up"] == {("redis",): 1, ("model_folder",): 0}
    assert found["round"] == {("8",): 0}


def test_an_unreachable_model_folder_is_reported(client: FlaskClient, config: Settings) -> None:
    config.model_dir.rename(config.model_dir.with_name("unmounted"))
    assert samples(client)["up"] == {("redis",): 1, ("model_folder",): 0}


def test_quotes_and_newlines_in_a_label_are_escaped(client: FlaskClient, root: Path) -> None:
    where = 'say "no"\nC:\\new'
    ProjectStore(root).record_error(where, "")
    assert samples(client)["kept_errors"] == {("7", where): 1}
    assert r'where="say \"no\"\nC:\\new"' in page(client)


def test_the_metrics_hold_no_secret(
    client: FlaskClient, root: Path, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    work(root, queue, redis_server)
    text = page(client)
    assert "tightloop_kept_errors" in text
    assert not [secret for secret in (*SECRETS, redis_server.url) if secret in text]


def test_every_metric_has_a_name_and_a_description_as_prometheus_requires(
    client: FlaskClient, root: Path, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    work(root, queue, redis_server)
    client.post("/webhook", json=event(), headers=HOOK)
    families = list(text_string_to_metric_families(page(client)))
    assert len(families) == len(GAUGES) - 1 + 4  # no acceptance sample is being labeled
    for family in families:
        assert re.fullmatch(r"tightloop(_[a-z]+)+", family.name)
        assert len(family.documentation) > 30
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter", "histogram")
        assert (family.type == "counter") == any(s.name.endswith("_total") for s in family.samples)


def test_metrics_and_status_are_open_to_the_same_readers(config: Settings) -> None:
    outside = {"backend_host": "0.0.0.0"}
    password = config.dashboard_password
    none = type(password)("")
    basic = {
        "nobody": None,
        "dashboard": base64.b64encode(b"tightloop:dash-pass").decode(),
        "backend": base64.b64encode(b"tightloop:backend-pass").decode(),
    }
    for changes, may in (
        ({"dashboard_password": none}, {"nobody", "dashboard", "backend"}),
        ({}, {"dashboard"}),
        (outside, {"dashboard"}),
        (outside | {"dashboard_password": none}, set()),
    ):
        client = create_app(config.model_copy(update=changes)).test_client()
        for path in ("/metrics", "/status"):
            let_in = set()
            for who, credentials in basic.items():
                headers = {"Authorization": f"Basic {credentials}"} if credentials else {}
                response = client.get(path, headers=headers)
                assert response.status_code in (200, 401)
                if response.status_code == 200:
                    let_in.add(who)
                else:
                    assert "tightloop_" not in response.text
            assert let_in == may, (path, changes)


def test_the_board_uses_only_metrics_and_labels_that_exist(
    client: FlaskClient, root: Path, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    work(root, queue, redis_server)
    client.post("/webhook", json=event(), headers=HOOK)
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page(client)):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    queries = [v["query"]["query"] for v in BOARD["templating"]["list"] if v["type"] == "query"]
    used = {n for text in EXPRESSIONS + queries for n in re.findall(r"tightloop_\w+", text)}
    assert len(used) > 15
    assert used <= labels.keys()
    for panel in PANELS:
        for target in panel["targets"]:
            names = re.findall(r"tightloop_\w+", target["expr"])
            known = set().union(*(labels[name] for name in names))
            filters = re.findall(r"(\w+)=~?\"", target["expr"])
            grouped = re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"])))
            shown = re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert {*filters, *grouped, *shown} <= known, target["expr"]


def test_the_board_can_be_imported_into_any_grafana() -> None:
    assert BOARD["schemaVersion"] >= 36
    assert BOARD["id"] is None  # Grafana assigns its own
    assert BOARD["title"]
    [source] = [v for v in BOARD["templating"]["list"] if v["type"] == "datasource"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    ours = {"type": "prometheus", "uid": "${datasource}"}
    parts: list[Any] = [*PANELS, *(target for panel in PANELS for target in panel["targets"])]
    parts += [v for v in BOARD["templating"]["list"] if v["type"] == "query"]
    assert all(part["datasource"] == ours for part in parts)
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [
        (x, y)
        for panel in BOARD["panels"]
        for spot in [panel["gridPos"]]
        for x in range(spot["x"], spot["x"] + spot["w"])
        for y in range(spot["y"], spot["y"] + spot["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
