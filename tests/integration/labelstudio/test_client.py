"""Tokens, images and finding a project."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from backend.base.errors import LabelStudioError
from backend.base.settings import load_settings
from backend.images.framing import View
from backend.labelstudio.client import authorization, find_project
from backend.labelstudio.project_setup import ProjectSetup
from backend.labelstudio.task_images import TaskImages
from tests.integration.labelstudio.annotating import new_task
from tests.integration.labelstudio.conftest import TITLE


def test_a_wrong_token_names_the_setting(credentials: tuple[str, str]) -> None:
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        ProjectSetup(credentials[0], "f" * 40, 1).title()


@pytest.fixture
def personal_token(api: httpx.Client) -> Iterator[str]:
    """A token of the newer kind, which is exchanged for short-lived ones."""
    settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    api.post("/api/jwt/settings", json=settings).raise_for_status()
    token = api.post("/api/token/").raise_for_status().json()["token"]
    yield token
    api.post("/api/token/blacklist/", json={"refresh": token}).raise_for_status()


@pytest.mark.filterwarnings("ignore:The `parse_obj` method")  # the SDK's own
def test_a_personal_token_works_also_for_images_uploaded_to_label_studio(
    credentials: tuple[str, str], api: httpx.Client, project: ProjectSetup, personal_token: str
) -> None:
    mine = ProjectSetup(credentials[0], personal_token, project.project_id)
    assert mine.import_tasks([new_task("a")]) == 1
    assert mine.counts().tasks == 1
    assert authorization(credentials[0], personal_token).startswith("Bearer ")

    png = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(png, "PNG")
    api.post(
        f"/api/projects/{project.project_id}/import", files={"file": ("a.png", png.getvalue())}
    ).raise_for_status()
    tasks = api.get("/api/tasks/", params={"project": project.project_id}).json()["tasks"]
    [path] = {task["data"]["image"] for task in tasks} - {"data:image/png;base64,"}
    assert path.startswith("/data/")
    for key in (personal_token, credentials[1]):
        settings = load_settings(
            _env_file=None, label_studio_url=credentials[0], label_studio_api_key=key
        )
        pixels = TaskImages(settings).load(path, View(64))
        assert pixels.shape == (64, 64, 3)


def test_a_project_is_found_by_its_id_then_by_its_exact_title(
    credentials: tuple[str, str], project: ProjectSetup
) -> None:
    assert find_project(*credentials, titles=["no such title"]) is None
    assert find_project(*credentials, titles=[TITLE.upper(), TITLE[:8]]) is None
    assert find_project(*credentials, titles=["no such title", TITLE]) == project.project_id
    assert (
        find_project(*credentials, titles=[], project_id=project.project_id) == project.project_id
    )
    assert find_project(*credentials, titles=[TITLE], project_id=10**6) == project.project_id
