"""Damage to any file of the model folder: named, left out, never served, and in nobody's way."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
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

from backend import pool_scores, pruning, registry
from backend.errors import ModelFolderError, TightloopError
from backend.labelstudio import Annotation, kept_annotations, label_config_xml
from backend.registry import AnnotatorFigures, OpenImage, Review
from backend.serving import create_app
from backend.settings import Settings, load_settings
from tests.conftest import RedisServer
from tests.unit.test_registry import meta, record, save, state_of

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
FILES = (
    "project.json", "seen.json", "answers.json", "folds.json", "annotators.json", "review.json",
    "open.json", "pruning.json", "current", "r0002/meta.json", "r0002/model.safetensors",
    "r0002/pool.safetensors", "r0002/validation.safetensors", "r0002h01/meta.json",
    "r0002h01/model.safetensors",
)  # fmt: skip


def fill(root: Path) -> None:
    """Write a project with every file: r0001, r0002 with a head, and r0002 in service."""
    registry.write_record(root, record(int(root.name[1:])))
    for version in (meta(1), meta(2), meta(2, version="r0002h01")):
        save(root, version)
        pool_scores.save_pool_probs(root, version.version, ("a", "b"), PROBS)
        pool_scores.save_validation_probs(root, version.version, np.array([0, 1]), PROBS)
    for name in ("r0001", "r0002"):
        registry.promote(root, name, NOON)
    row = Annotation(1, 5, "a", 2, "cat", was_skipped=False, updated_at="2026-01-01")
    registry.write_answers(root, NOON, {5: [row]})
    registry.write_seen(root, {1: "cat"})
    registry.write_fold_probs(root, {"a": [0.4, 0.6]})
    ada = AnnotatorFigures(1, "Ada", 12, 3, 0.75, 0.8, 0.55, 0.95, 12, 0.5, 0.25, 4.2)
    registry.write_annotators(root, [ada])
    registry.write_review(root, Review(project_id=9))
    shown = OpenImage(
        image_id="a", confidence=0.1, guesses=(("cat", 0.6),), is_again=False, picture="data:,"
    )
    registry.write_open_images(root, NOON, [shown])
    pruning.write_announcement(root, NOON)


def read_all(root: Path) -> None:
    """Read all that is ever read of a project; what is refused is refused by an error of ours."""
    readers: list[Callable[[], object]] = [
        lambda: registry.read_record(root),
        lambda: registry.read_review(root),
        lambda: registry.promotions(root),
        lambda: registry.current(root),
        lambda: registry.promote(root, "r0002"),
        lambda: registry.promote(root, "r0002h01"),
    ]
    for version in ("r0001", "r0002", "r0002h01"):
        for read in (
            registry.read_meta,
            registry.load_state,
            registry.load_own_state,
            pool_scores.load_pool_probs,
            pool_scores.load_validation,
        ):
            readers.append(lambda read=read, version=version: read(root, version))  # type: ignore[misc]
    for reader in readers:
        with suppress(TightloopError):
            reader()
    registry.versions(root)
    assert all(isinstance(v, str) for v in registry.read_seen(root).values())
    assert all(np.isfinite(row).all() for row in registry.read_fold_probs(root).values())
    rows = [asdict(row) for row in registry.read_annotators(root) if row is not None]
    json.dumps(rows, allow_nan=False)
    registry.read_open_images(root)
    pruning.read_announcement(root)
    if (kept := registry.read_answers(root)) is not None:
        assert (datetime.now(UTC) - kept[0]).days > 0
        kept_annotations(kept[1])


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
    fill(registry.project_root(own.model_dir, PROJECT))
    fill(registry.project_root(own.model_dir, OTHER))
    return own


@pytest.fixture
def root(config: Settings) -> Path:
    return registry.project_root(config.model_dir, PROJECT)


@pytest.fixture
def client(config: Settings, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr("backend.dashboard.PAGE_LIFETIME_S", 0.0)
    return create_app(config).test_client()


def predict(client: FlaskClient) -> Any:
    task = {"id": 1, "project": PROJECT, "data": {"image_id": "a"}}
    config = label_config_xml(("cat", "dog"))
    body = {"tasks": [task], "project": f"{PROJECT}.1", "label_config": config}
    return client.post("/predict", auth=AUTH, json=body)


def filled(state: registry.State, value: float, *names: str) -> registry.State:
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


def change_weights(root: Path, version: str, state: registry.State) -> None:
    """Put other weights in place, and their sha256 into meta.json."""
    path = root / version / "model.safetensors"
    safetensors.numpy.save_file(state, path)
    change_meta(path.parent, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_stops_nobody_and_shows_no_trace(
    client: FlaskClient, root: Path, file: str
) -> None:
    sound = (root / file).read_bytes()
    for number, (name, content) in enumerate({**JUNK, "a folder": None}.items()):
        (root / file).unlink()
        if content is None:
            (root / file).mkdir()
        else:
            (root / file).write_bytes(content)
            os.utime(root / file, (number, number))
        read_all(root)
        for path in ("/status", "/dashboard", f"/dashboard?project={OTHER}", "/metrics"):
            answer = client.get(path)
            allowed = (200, 503) if path == "/dashboard" else (200,)
            assert answer.status_code in allowed, (name, path, answer.text)
            assert "Traceback" not in answer.text
        status = json.loads(client.get("/status").text, parse_constant=no_constant)
        assert OTHER in [project["project_id"] for project in status["projects"]], name
        answer = predict(client)
        assert answer.status_code in (200, 503), (name, answer.text)
        assert "unexpected" not in answer.text, name
        assert client.get("/versions", auth=AUTH).status_code == 200
        if content is None:
            (root / file).rmdir()
        (root / file).write_bytes(sound)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    file=st.sampled_from(FILES),
    content=st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()),
    field=st.none() | st.integers(0, 40),
)
@example(file="answers.json", content=b'{"read_at": 0, "tasks": {"1": [{"label": 5}]}}', field=None)
def test_no_junk_raises_anything_but_errors_of_ours(
    root: Path, file: str, content: bytes, field: int | None
) -> None:
    path = root / file
    sound = path.read_bytes()
    try:
        if field is not None and file.endswith(".json"):
            # One field of a sound file alone is junk.
            kept = json.loads(sound)
            rows = kept if isinstance(kept, dict) else kept[0]
            rows[sorted(rows)[field % len(rows)]] = json.loads(json.dumps(content.decode("latin1")))
            content = json.dumps(kept).encode()
        path.write_bytes(content)
        read_all(root)
    finally:
        path.write_bytes(sound)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_predictions_status_and_dashboard_name_the_version_before_a_damaged_one(
    client: FlaskClient, root: Path
) -> None:
    change_weights(root, "r0002", filled(state_of(meta(2)), np.nan, "conv1.weight"))
    [answer] = predict(client).get_json()["results"]
    assert (answer["model_version"], answer["score"]) == ("r0001", pytest.approx(0.8))
    [status] = [p for p in client.get("/status").get_json()["projects"] if p["project_id"] == 7]
    assert status["version"] == "r0001"
    assert "conv1.weight holds NaN" in status["broken_versions"]["r0002"]
    html = client.get(f"/dashboard?project={PROJECT}").text
    assert "r0002/model.safetensors is damaged: conv1.weight holds NaN" in html


def run_script(config: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "MODEL_DIR": str(config.model_dir),
        "REDIS_URL": config.redis_url.get_secret_value(),
        "PATH": os.environ["PATH"],
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_scripts_list_sound_versions_beside_a_damaged_one_and_do_not_promote_that(
    config: Settings, root: Path
) -> None:
    change_weights(root, "r0002", filled(state_of(meta(2)), np.nan, "conv1.weight"))
    fault = "r0002/model.safetensors is damaged: conv1.weight holds NaN"
    listed = run_script(config, "scripts.models", "--project=7", "list")
    assert listed.returncode == 0
    assert f"r0002    skipped: {fault}" in listed.stdout
    [in_service] = [line for line in listed.stdout.splitlines() if line.endswith("in service")]
    assert in_service.startswith("r0001")
    refused = run_script(config, "scripts.models", "--project=7", "promote", "r0002")
    assert (refused.returncode, refused.stderr.strip()) == (
        1, f"{fault} or infinite numbers",
    )  # fmt: skip
    told = run_script(config, "scripts.status")
    assert told.returncode == 0
    assert "r0001 in service" in told.stdout
    assert "Traceback" not in listed.stderr + refused.stderr + told.stderr


def test_the_scripts_name_a_damaged_current_and_list_what_may_take_its_place(
    config: Settings, root: Path
) -> None:
    (root / "current").write_bytes(JUNK["lists nested 100,000 deep"])
    listed = run_script(config, "scripts.models", "--project=7", "list")
    assert listed.returncode == 1
    assert "r0002" in listed.stdout
    assert listed.stderr.startswith(f"{root}/current is damaged: put a version back")
    told = run_script(config, "scripts.status")
    assert "r0002 in service" in told.stdout  # the other project
    assert f"{root}/current is damaged" in told.stderr
    with pytest.raises(ModelFolderError, match="current is damaged"):
        registry.current(root)
    assert run_script(config, "scripts.models", "--project=7", "promote", "r0002").returncode == 0
