"""Name versions whose metadata or weights are damaged; never promote or serve them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from pydantic import ValidationError

from backend.base.errors import BrokenVersionError
from backend.base.settings import load_settings
from backend.labelstudio.label_config import label_config_xml
from backend.measures.evaluation import Evaluation
from backend.measures.gate import Gate
from backend.network import resnet
from backend.store.project_record import project_root
from backend.store.registry import Registry
from backend.store.tensor_file import State
from backend.web.serving import create_app
from tests.conftest import RedisServer
from tests.unit.store.test_model_folder import (
    AUTH,
    PROBS,
    PROJECT,
    change_meta,
    change_weights,
    fill,
    filled,
)
from tests.unit.store.test_registry import meta, state_of
from tests.unit.web.conftest import png, task

GATE = {"against": "r0001", "p_value": 0.5, "fell": 3, "rose": 2, "note": ""}  # as it is written


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project with r0001, r0002 in service, and a head of r0002."""
    root = project_root(tmp_path, PROJECT)
    fill(root)
    return root


@pytest.fixture
def client(root: Path, redis_server: RedisServer) -> FlaskClient:
    settings = load_settings(
        _env_file=None,
        model_dir=root.parent,
        redis_url=redis_server.url,
        backend_password=AUTH[1],
        webhook_secret="hook-secret",
    )
    return create_app(settings).test_client()


def check_left_out(root: Path, version: str, reason: str) -> None:
    """Check that a version is named as broken and r0001 is in service."""
    sound, broken = Registry(root).versions()
    assert version not in [m.version for m in sound]
    assert reason in broken[version]
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"
    with pytest.raises(BrokenVersionError, match=re.escape(reason)):
        Registry(root).promote(version)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"calibration": {"temperature": 0, "error_before": 0, "error_after": 0,
                          "test_error_after": None}}, "calibration.temperature"),
        ({"calibration": {"temperature": -1, "error_before": 0, "error_after": 0,
                          "test_error_after": None}}, "calibration.temperature"),
        ({"calibration": {"temperature": float("nan"), "error_before": 0, "error_after": 0,
                          "test_error_after": None}}, "calibration.temperature"),
        ({"calibration": {"temperature": float("inf"), "error_before": 0, "error_after": 0,
                          "test_error_after": None}}, "calibration.temperature"),
        ({"validation__accuracy": float("nan")}, "validation.accuracy"),
        ({"validation__accuracy": 1.5}, "validation.accuracy"),
        ({"validation__accuracy": -0.5}, "validation.accuracy"),
        ({"validation__log_loss": float("nan")}, "validation.log_loss"),
        ({"validation__log_loss": float("inf")}, "validation.log_loss"),
        ({"validation__images": -1}, "validation.images"),
        ({"validation__images": 10**400}, "validation.images"),
        ({"test": {"accuracy": float("nan"), "log_loss": 1, "images": 1}}, "test.accuracy"),
        ({"test": {"accuracy": 0.5, "log_loss": 1}}, "test.images"),
        ({"gate": GATE | {"against": "../../r0001"}}, "against is not the name of a version"),
        ({"gate": GATE | {"p_value": float("nan")}}, "gate.p_value"),
        ({"gate": GATE | {"p_value": 1.5}}, "gate.p_value"),
        ({"gate": GATE | {"fell": -1}}, "gate.fell"),
        ({"gate": GATE | {"rose": 10**400}}, "gate.rose"),
        ({"gate": {"against": "r0001"}}, "gate.p_value"),
        ({"image_size": 8}, "image_size"),
        ({"image_size": 33}, "image_size"),
        ({"image_size": 1024}, "image_size"),
        ({"classes": []}, "classes"),
        ({"classes": ["cat"]}, "classes"),
        ({"classes": ["cat", "cat"]}, "a class is listed twice"),
        ({"classes": ["cat", "dog", "frog"]}, "fc.weight is F32 [2, 8], not F32 [3, 8]"),
        ({"labels": -1}, "labels"),
        ({"labels": 10**400}, "labels"),
        ({"labels_per_class": {"cat": -1}}, "labels_per_class.cat"),
        ({"left_out": {"skipped": 0.5}}, "left_out.skipped"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"seconds": {"training": float("nan")}}, "seconds.training"),
        ({"round": "two"}, "round"),
        ({"parent": "../../r0001"}, "parent"),
        ({"body_key": "../../../etc/x"}, "body_key"),
        ({"version": "r0001"}, "belongs to r0001"),
        ({"sha256": ""}, "differs from its sha256"),
    ],
)  # fmt: skip
def test_a_version_with_invalid_metadata_is_named_and_not_served(
    root: Path, changes: dict[str, Any], reason: str
) -> None:
    change_meta(root / "r0002", **changes)
    check_left_out(root, "r0002", reason)


def test_metadata_of_the_first_releases_is_valid(root: Path) -> None:
    path = root / "r0002/meta.json"
    kept = json.loads(path.read_text())
    for name in ("gate", "calibration", "body_key", "pruned_at"):  # came later
        del kept[name]
    path.write_text(json.dumps(kept))
    assert [m.version for m in Registry(root).versions()[0]] == ["r0001", "r0002", "r0002h01"]


def test_the_gate_in_meta_json_keeps_its_original_field_names(
    root: Path,
) -> None:
    change_meta(root / "r0002", gate=GATE)
    found = Registry(root).read_meta("r0002")
    assert found.gate == Gate("r0001", 0.5, regressions=3, improvements=2)
    assert json.loads(found.model_dump_json())["gate"] == GATE


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": Gate("r0001", 1.5, 3, 2)},
        {"gate": Gate("the one before", 0.5, 3, 2)},
        {"validation": Evaluation(float("nan"), 0.7, 20)},
    ],
)
def test_unreadable_metadata_cannot_be_created(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        meta(1, **changes)


def without(state: State, *names: str) -> State:
    return {name: array for name, array in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: {}, "conv1.weight is missing"),
        (lambda _: {"scores": PROBS}, "conv1.weight is missing"),
        (lambda s: without(s, "layer3.0.bn1.bias"), "layer3.0.bn1.bias is missing"),
        (lambda s: s | {"fc2.bias": PROBS}, "'fc2.bias' does not belong to it"),
        (lambda s: s | {"fc.bias": np.zeros(3, np.float32)}, "fc.bias is F32 [3], not F32 [2]"),
        (lambda s: s | {"bn1.bias": np.zeros(1, np.float16)}, "bn1.bias is F16 [1], not F32 [1]"),
        (lambda s: s | {"bn1.bias": np.zeros(1, np.int32)}, "'bn1.bias' is I32"),
        (
            lambda s: filled(s, np.nan, "layer2.0.conv1.weight"),
            "layer2.0.conv1.weight contains NaN",
        ),
        (lambda s: filled(s, np.inf, "bn1.running_var"), "bn1.running_var contains NaN"),
    ],
)
def test_foreign_weights_with_a_matching_sha256_are_named_and_not_served(
    root: Path, change: Callable[[State], State], reason: str
) -> None:
    change_weights(root, "r0002", change(state_of(meta(2))))
    check_left_out(root, "r0002", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s | state_of(meta(2)), "does not belong to it"),
        (lambda s: s | {"fc.weight": np.zeros((2, 9), np.float32)}, "not a last layer of r0002"),
        (lambda s: filled(s, np.nan, "fc.bias"), "fc.bias contains NaN"),
    ],
)
def test_an_invalid_head_or_one_of_another_body_is_named_and_not_served(
    root: Path, change: Callable[[State], State], reason: str
) -> None:
    Registry(root).promote("r0001")
    Registry(root).promote("r0002h01")
    change_weights(root, "r0002h01", change(state_of(meta(2, version="r0002h01"))))
    check_left_out(root, "r0002h01", reason)


def test_a_head_is_broken_if_its_body_is_damaged(root: Path) -> None:
    change_weights(root, "r0002", filled(state_of(meta(2)), np.nan, "conv1.weight"))
    check_left_out(
        root, "r0002h01", "r0002/model.safetensors is damaged: conv1.weight contains NaN"
    )


def test_a_repaired_version_is_in_service_again(root: Path) -> None:
    path = root / "r0002/model.safetensors"
    sound = path.read_bytes()
    path.write_bytes(sound[:-4] + b"\0\0\xc0\x7f")  # NaN
    os.utime(path, (1, 1))
    check_left_out(root, "r0002", "sha256")
    path.write_bytes(sound)
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0002"


def full_size(seed: int) -> State:
    return {k: v.numpy() for k, v in resnet.build(2, None, seed=seed).state_dict().items()}


def ask(client: FlaskClient) -> Any:
    """Request a prediction for an image outside the pool."""
    config = label_config_xml(("cat", "dog"))
    body = {"tasks": [task(1, image=png((1, 2, 3)))], "project": "7", "label_config": config}
    return client.post("/predict", auth=AUTH, json=body)


def test_predictions_come_from_the_version_before_one_with_damaged_weights(
    client: FlaskClient, root: Path
) -> None:
    for number in (3, 4):
        Registry(root).save(full_size(number), meta(number))
        Registry(root).promote(f"r000{number}")
    path = root / "r0004/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    [prediction] = ask(client).get_json()["results"]
    assert prediction["model_version"] == "r0003"
    assert 0 < prediction["score"] < 1


def test_a_network_of_another_width_is_refused_with_one_sentence_on_loading(
    client: FlaskClient,
) -> None:
    response = ask(client)  # r0002 is one channel wide
    assert response.status_code == 503
    assert "not a ResNet-18 of 2 classes" in response.get_json()["error"]


def test_a_version_whose_probabilities_are_nan_is_named_and_makes_no_prediction(
    client: FlaskClient, root: Path
) -> None:
    state = full_size(3)
    state["fc.weight"] = np.full_like(state["fc.weight"], 3e38)  # finite, but their sum is not
    Registry(root).save(state, meta(3))
    Registry(root).promote("r0003")
    response = ask(client)
    assert response.status_code == 503
    assert "the probabilities of r0003 contain NaN" in response.get_json()["error"]
