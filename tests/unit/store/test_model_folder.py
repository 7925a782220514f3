"""Damage each file of the model folder: it is named and left out, and the rest works on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backend.base.errors import ModelFolderError, TightloopError
from backend.base.labeling import Annotation, Asked, Task, TaskReading
from backend.base.settings import Settings, load_settings
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import CLOCK_SKEW
from backend.store import model_outputs, pruning
from backend.store.adaptation_checkpoint import (
    CheckpointMeta,
    load_checkpoint,
    save_checkpoint,
)
from backend.store.bodies import Bodies
from backend.store.project_record import project_root, read_record, write_record
from backend.store.project_rows import AnnotatorFigures, OpenImage
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.tensor_file import State
from backend.web.serving import create_app
from tests.conftest import RedisServer
from tests.patience import PATIENCE_S
from tests.unit.store.test_bodies import save_body
from tests.unit.store.test_registry import meta, record, save, state_of

PROJECT, OTHER = 7, 8
AUTH = ("tightloop", "backend-pass")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROBS = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)

JUNK = {
    "nothing": b"",
    "binary junk": bytes(range(256)),
    "half a file": b'{"version": "r0002", "promotions": [{"ver',
    "lists nested 100,000 deep": b"[" * 100_000,
    "closed lists nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects nested 100,000 deep": b'{"tasks":' * 100_000,
    "null": b"null",
    "a list": b"[]",
    "a list of lists": b"[[[]]]",
    "an object": b"{}",
    "a number": b"5",
    "NaN": b"NaN",
    "infinity in an object": b'{"1": -Infinity, "a": [NaN, 1e999]}',
    "a number of 5,000 digits": b"9" * 5000,
    "a lone surrogate": b'{"1": "\\ud800", "\\udfff": ["\\ud800"]}',
    "UTF-16": '{"1": "a"}'.encode("utf-16"),
}
# Files of releases before 0.2, migrated when the database is created.
EARLIER = (
    "seen.json", "answers.json", "folds.json", "annotators.json", "review.json", "open.json",
)  # fmt: skip
FILES = (
    "project.json", "project.db", *EARLIER, "current", "r0002/meta.json",
    "r0002/model.safetensors", "r0002/pool/manifest.json", "r0002/validation.safetensors",
    "r0002h01/meta.json", "r0002h01/model.safetensors",
    "a0001/meta.json", "a0001/model.safetensors", "start", "adapting.safetensors",
)  # fmt: skip
ROW = Annotation(1, 5, "a", 2, "cat", was_skipped=False, updated_at="2026-01-01")
ADA = AnnotatorFigures(1, "Ada", 12, 3, 0.75, 0.8, 0.55, 0.95, 12, 0.5, 0.25, 4.2)
SHOWN = OpenImage(
    image_id="a", confidence=0.1, guesses=(("cat", 0.6),), is_again=False, picture="data:,"
)


def fill(root: Path) -> None:
    """Write a project with every file: r0001, r0002 with a head, and r0002 in service.

    The next training run starts from the body a0001, and another adaptation is under way.
    """
    write_record(root, record(int(root.name[1:])))
    for version in (meta(1), meta(2), meta(2, version="r0002h01")):
        save(root, version)
        model_outputs.save_pool_probs(root, version.version, ("a", "b"), PROBS)
        model_outputs.save_validation_probs(root, version.version, np.array([0, 1]), PROBS)
    for name in ("r0001", "r0002"):
        Registry(root).promote(name, NOON)
    save_body(root)
    Bodies(root).set_start("a0001", by="loop", now=NOON)
    save_checkpoint(root, {}, CheckpointMeta(fingerprint="f", spent_s=1.0, began_at=1.0))
    fill_store(root)


def fill_store(root: Path) -> None:
    """Write a database with a row in every table."""
    store = ProjectStore(root)
    task = Task(5, "a", is_open=False, awaits_second_opinion=False)
    asked = Asked("a", 1, "margin", "r0001", probs=(0.4, 0.6))
    store.record_tasks([TaskReading(task, "2026-01-01", (ROW,), asked)], NOON.timestamp())
    store.record_reading(NOON.timestamp(), is_full=True)
    store.record_learned({1: "cat"}, NOON.timestamp())
    store.record_failure("refit", NOON.timestamp())
    store.record_fold_probs(["a"], [np.array([0.4, 0.6], np.float32)])
    store.record_annotators([ADA])
    store.start_reviews(9)
    store.record_reviewed("a", "cat")
    store.record_open_images(NOON.timestamp(), [SHOWN])
    store.record_error("training", "out of memory", NOON)
    pruning.write_announcement(root, NOON)


def fill_earlier(root: Path) -> None:
    """Write the same into files, as releases before 0.2 did, without a database."""
    forget_database(root)
    shutil.rmtree(root / "earlier-release", ignore_errors=True)
    kept: dict[str, Any] = {
        "seen.json": {1: "cat"},
        "answers.json": {"read_at": NOON.isoformat(), "tasks": {5: [asdict(ROW)]}},
        "folds.json": {"a": [0.4, 0.6]},
        "annotators.json": [asdict(ADA)],
        "review.json": {"project_id": 9, "collected": {"a": "cat"}},
        "open.json": {"read_at": NOON.isoformat(), "images": [SHOWN.model_dump()]},
    }
    assert tuple(kept) == EARLIER
    for name, content in kept.items():
        (root / name).write_text(json.dumps(content))


def forget_database(root: Path) -> None:
    for path in root.glob("project.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def put(root: Path, file: str, content: bytes | None) -> None:
    """Put something else in a file's place, a folder for None. What is an earlier release's is then
    taken over, as when the clock first looks at the project.
    """
    path = root / file
    if file in EARLIER:
        fill_earlier(root)
    if file == "project.db":
        forget_database(root)
    elif path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    if file in EARLIER:
        ProjectStore(root).record(trained_at=1.0)
        assert ProjectStore(root).facts().trained_at == 1.0


def read_all(root: Path) -> None:
    """Read every file of a project; allow only errors of our own."""
    readers: list[Callable[[], object]] = [
        lambda: read_record(root),
        lambda: pruning.read_announcement(root),
        lambda: Registry(root).promotions(),
        lambda: Registry(root).current(),
        lambda: Registry(root).promote("r0002"),
        lambda: Registry(root).promote("r0002h01"),
        lambda: Bodies(root).start(),
        lambda: Bodies(root).read_meta("a0001"),
        lambda: Bodies(root).load_state("a0001"),
        lambda: Bodies(root).set_start("a0001", by="person"),
        lambda: load_checkpoint(root, "f"),
    ]
    for version in ("r0001", "r0002", "r0002h01"):
        for read in (
            Registry(root).read_meta,
            Registry(root).load_state,
            Registry(root).load_own_state,
        ):
            readers.append(lambda read=read, version=version: read(version))  # type: ignore[misc]
        for read_scores in (
            model_outputs.load_pool_probs,
            model_outputs.load_validation,
        ):
            readers.append(lambda read=read_scores, version=version: read(root, version))  # type: ignore[misc]
    for reader in readers:
        with suppress(TightloopError):
            reader()
    Registry(root).versions()
    Bodies(root).all()
    Bodies(root).usable_start()
    for method in STORE_READERS:
        with suppress(TightloopError):
            method(ProjectStore(root))


def read_moment(store: ProjectStore) -> None:
    read_at = datetime.fromtimestamp(store.facts().read_at, UTC)
    assert (datetime.now(UTC) - (read_at - CLOCK_SKEW)).days > 0


def read_probs(store: ProjectStore) -> None:
    for row in (*store.fold_probs(2).values(), *store.asked_probs(2).values()):
        assert np.isfinite(row).all()


def read_people(store: ProjectStore) -> None:
    json.dumps([asdict(person) for person in store.annotators()], allow_nan=False)


STORE_READERS: tuple[Callable[[ProjectStore], object], ...] = (
    read_moment, read_probs, read_people, ProjectStore.reviewed, ProjectStore.n_open,
    ProjectStore.counts, ProjectStore.tasks, ProjectStore.annotations, ProjectStore.new_annotations,
    ProjectStore.open_images, ProjectStore.errors,
)  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = load_settings(
        _env_file=None,
        model_dir=tmp_path / "models",
        redis_url=redis_server.url,
        backend_password="backend-pass",
        webhook_secret="hook-secret",
        dashboard_open=True,
    )
    fill(project_root(own.model_dir, PROJECT))
    fill(project_root(own.model_dir, OTHER))
    return own


@pytest.fixture
def root(config: Settings) -> Path:
    return project_root(config.model_dir, PROJECT)


@pytest.fixture
def client(config: Settings, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr("backend.web.page_cache.PAGE_LIFETIME_S", 0.0)
    return create_app(config).test_client()


def predict(client: FlaskClient) -> Any:
    task = {"id": 1, "project": PROJECT, "data": {"image_id": "a"}}
    config = label_config_xml(("cat", "dog"))
    body = {"tasks": [task], "project": f"{PROJECT}.1", "label_config": config}
    return client.post("/predict", auth=AUTH, json=body)


def filled(state: State, value: float, *names: str) -> State:
    return state | {name: np.full_like(state[name], value) for name in names}


def no_constant(name: str) -> None:
    pytest.fail(f"{name} in JSON")


def change_meta(folder: Path, **changes: Any) -> None:
    path = folder / "meta.json"
    kept = json.loads(path.read_text())
    for name, value in changes.items():
        outer, _, inner = name.partition("__")
        (kept if not inner else kept[outer])[inner or outer] = value
    path.write_text(json.dumps(kept))


def change_weights(root: Path, version: str, state: State) -> None:
    """Put other weights in place, and their sha256 into meta.json."""
    path = root / version / "model.safetensors"
    safetensors.numpy.save_file(state, path)
    change_meta(path.parent, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_stops_no_page_or_prediction_and_shows_no_traceback(
    client: FlaskClient, root: Path, file: str
) -> None:
    sound = None if file in EARLIER else (root / file).read_bytes()
    for number, (name, content) in enumerate({**JUNK, "a folder": None}.items()):
        put(root, file, content)
        if content is not None and sound is not None:
            os.utime(root / file, (number, number))
        read_all(root)
        for path in ("/status", "/dashboard", f"/dashboard?project={OTHER}", "/metrics"):
            response = client.get(path)
            allowed = (200, 503) if path == "/dashboard" else (200,)
            assert response.status_code in allowed, (name, path, response.text)
            assert "Traceback" not in response.text
        status = json.loads(client.get("/status").text, parse_constant=no_constant)
        assert OTHER in [project["project_id"] for project in status["projects"]], name
        response = predict(client)
        assert response.status_code in (200, 503), (name, response.text)
        assert "unexpected" not in response.text, name
        assert client.get("/versions", auth=AUTH).status_code == 200
        if sound is not None:
            put(root, file, sound)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def spoil_cell(path: Path, number: int, content: bytes) -> None:
    """Write junk of the same type into one cell of a database."""
    big = int.from_bytes(content[:7], "big")
    junk = {"BLOB": content, "TEXT": content.decode("latin1"), "INTEGER": big, "REAL": big}
    with closing(sqlite3.connect(path)) as db, db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        cells = []
        for (table,) in tables.fetchall():
            columns = db.execute(f"PRAGMA table_info({table})").fetchall()
            n_rows = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            key = columns[0][1]
            cells += [(table, key, c[1], junk[c[2]], n) for c in columns for n in range(n_rows)]
        table, key, column, value, place = cells[number % len(cells)]
        row = f'"{key}" = (SELECT "{key}" FROM {table} ORDER BY 1 LIMIT 1 OFFSET {place})'
        db.execute(f'UPDATE {table} SET "{column}" = ? WHERE {row}', (value,))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    file=st.sampled_from(FILES),
    content=st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()),
    field=st.none() | st.integers(0, 60),
)
@example(file="answers.json", content=b'{"read_at": 0, "tasks": {"1": [{"label": 5}]}}', field=None)
@example(file="folds.json", content=b'{"a": [NaN, 1e300]}', field=None)
@example(file="open.json", content=b'{"read_at": "0001-01-01T00:00Z", "images": []}', field=None)
@example(file="seen.json", content=b'{"99999999999999999999": "cat"}', field=None)
def test_junk_in_any_file_raises_only_our_own_errors(
    root: Path, file: str, content: bytes, field: int | None
) -> None:
    if file in EARLIER:
        fill_earlier(root)
    path = root / file
    sound = path.read_bytes()
    try:
        if field is not None and file.endswith(".json"):
            # Only one field of a valid file is junk.
            kept = json.loads(sound)
            rows = kept if isinstance(kept, dict) else kept[0]
            rows[sorted(rows)[field % len(rows)]] = json.loads(json.dumps(content.decode("latin1")))
            content = json.dumps(kept).encode()
        if field is not None and file == "project.db":
            spoil_cell(path, field, content)
        else:
            put(root, file, content)
        read_all(root)
    finally:
        if file in EARLIER:
            forget_database(root)
            fill_store(root)
        else:
            put(root, file, sound)
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize("moment", ["1e300", "-1e300", "NaN", "Infinity", "999999999999"])
@pytest.mark.parametrize("fact", ["read_at", "pruning_announced_at"])
def test_an_impossible_date_is_named_as_damage(
    root: Path, client: FlaskClient, fact: str, moment: str
) -> None:
    with closing(sqlite3.connect(root / "project.db")) as db, db:
        db.execute("UPDATE own_fact SET value = ? WHERE name = ?", (moment, fact))
    read_all(root)
    status = client.get("/status").get_json()
    assert [project["project_id"] for project in status["projects"]] == [OTHER]
    assert "project.db is damaged" in status["unreadable"][str(PROJECT)]


@pytest.mark.parametrize("probs", [[np.nan, 0.5], [0.5, np.inf]])
@pytest.mark.parametrize("table", ["own_asked", "own_fold"])
def test_probabilities_that_are_not_numbers_are_left_out(
    root: Path, table: str, probs: list[float]
) -> None:
    store, blob = ProjectStore(root), np.array(probs, np.float32).tobytes()
    assert store.asked_probs(2).keys() == store.fold_probs(2).keys() == {"a"}
    with closing(sqlite3.connect(root / "project.db")) as db, db:
        db.execute(f"UPDATE {table} SET probs = ?", (blob,))
    kept = store.asked_probs(2) if table == "own_asked" else store.fold_probs(2)
    assert kept == {}


def test_predictions_status_and_dashboard_name_the_version_before_a_damaged_one(
    client: FlaskClient, root: Path
) -> None:
    change_weights(root, "r0002", filled(state_of(meta(2)), np.nan, "conv1.weight"))
    [prediction] = predict(client).get_json()["results"]
    assert (prediction["model_version"], prediction["score"]) == ("r0001", pytest.approx(0.8))
    [status] = [p for p in client.get("/status").get_json()["projects"] if p["project_id"] == 7]
    assert status["version"] == "r0001"
    assert "conv1.weight contains NaN" in status["broken_versions"]["r0002"]
    html = client.get(f"/dashboard?project={PROJECT}").text
    assert "r0002/model.safetensors is damaged: conv1.weight contains NaN" in html


def run_script(config: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "MODEL_DIR": str(config.model_dir),
        "REDIS_URL": config.redis_url.get_secret_value(),
        "PATH": os.environ["PATH"],
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def test_the_scripts_list_valid_versions_beside_a_damaged_one_and_refuse_to_promote_it(
    config: Settings, root: Path
) -> None:
    change_weights(root, "r0002", filled(state_of(meta(2)), np.nan, "conv1.weight"))
    fault = "r0002/model.safetensors is damaged: conv1.weight contains NaN"
    listed = run_script(config, "scripts.models", "--project=7", "list")
    assert listed.returncode == 0
    assert f"r0002    skipped: {fault}" in listed.stdout
    [in_service] = [line for line in listed.stdout.splitlines() if line.endswith("in service")]
    assert in_service.startswith("r0001")
    refused = run_script(config, "scripts.models", "--project=7", "promote", "r0002")
    assert (refused.returncode, refused.stderr.strip()) == (
        1, f"{fault} or infinite numbers",
    )  # fmt: skip
    status = run_script(config, "scripts.status")
    assert status.returncode == 0
    assert "r0001 in service" in status.stdout
    assert "Traceback" not in listed.stderr + refused.stderr + status.stderr


def test_the_scripts_name_a_damaged_current_and_list_its_possible_replacements(
    config: Settings, root: Path
) -> None:
    (root / "current").write_bytes(JUNK["lists nested 100,000 deep"])
    listed = run_script(config, "scripts.models", "--project=7", "list")
    assert listed.returncode == 1
    assert "r0002" in listed.stdout
    assert listed.stderr.startswith(f"{root}/current is damaged: put a version back")
    status = run_script(config, "scripts.status")
    assert "r0002 in service" in status.stdout  # the other project
    assert f"{root}/current is damaged" in status.stderr
    with pytest.raises(ModelFolderError, match="current is damaged"):
        Registry(root).current()
    assert run_script(config, "scripts.models", "--project=7", "promote", "r0002").returncode == 0
