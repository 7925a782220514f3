"""A backend with one project, and what Label Studio sends to it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from backend.base.settings import Settings, load_settings
from backend.labelstudio.incoming import SECRET_HEADER
from backend.labelstudio.label_config import label_config_xml
from backend.network import resnet
from backend.store import model_outputs
from backend.store.project_record import (
    FormerSettings,
    ProjectRecord,
    project_root,
    read_record,
    write_record,
)
from backend.store.registry import Registry
from backend.web.serving import create_app
from tests.conftest import RedisServer
from tests.unit.store.test_registry import meta

CLASSES = ("cat", "dog", "frog")
CONFIG = label_config_xml(("Frog", "Cat", "Dog"))  # another order and case than the model's
PROJECT = 7
AUTH = ("tightloop", "backend-pass")
SECRET = {SECRET_HEADER: "hook-secret"}
POOL_PROBS = np.array([[0.2, 0.7, 0.1], [0.4, 0.3, 0.3]], dtype=np.float32)


def settings_of(folder: Path, redis_server: RedisServer, **changes: object) -> Settings:
    """Return the settings of a backend whose Label Studio is out of reach."""
    defaults: dict[str, object] = {
        "model_dir": folder / "models",
        "redis_url": redis_server.url,
        "label_studio_url": "http://127.0.0.1:9",
        "label_studio_api_key": "ls-token",
        "backend_password": "backend-pass",
        "webhook_secret": "hook-secret",
    }
    return load_settings(_env_file=None, **defaults | changes)


@pytest.fixture
def config(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = settings_of(tmp_path, redis_server, retrain_after=2)
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


def put_in_service(
    root: Path, number: int = 1, image_ids: tuple[str, str] = ("img-a", "img-b")
) -> None:
    state = {k: v.numpy() for k, v in resnet.build(3, None, seed=number).state_dict().items()}
    saved = Registry(root).save(state, meta(number, classes=CLASSES, image_size=32))
    model_outputs.save_pool_probs(root, saved.version, image_ids, POOL_PROBS)
    Registry(root).promote(saved.version)


def attach(root: Path) -> None:
    """Make the project one that a team has worked in before Tightloop."""
    record = read_record(root)
    assert record is not None
    former = FormerSettings(
        sampling="Sequential sampling", model_version="", show_collab_predictions=True,
        description="",
    )  # fmt: skip
    write_record(root, record.model_copy(update={"attached": former}))


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
