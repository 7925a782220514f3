"""Export labels from a real Label Studio, and import them into another of its projects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from backend.base.labeling import NewTask
from backend.labelstudio.client import create_project, delete_project
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.project_setup import ProjectSetup
from backend.results.label_export import Exported, export_file
from tests.integration.labelstudio.annotating import annotate, import_images, new_task
from tests.unit.images.image_folders import save_image
from tests.unit.results.exporter import Exporter, set_up


@pytest.fixture
def exporter(project: ProjectSetup, credentials: tuple[str, str], tmp_path: Path) -> Exporter:
    """Provide a project of four images that has read nothing from Label Studio yet."""
    for i in range(4):
        save_image(tmp_path / f"pool/{i}.png", (i, 0, 0))
    own = set_up(
        tmp_path,
        label_studio=credentials,
        project_id=project.project_id,
        project_created_at=project.created_at(),
    )
    own.store.record(read_at=0.0, emails={})
    return own


def queried_task(image_id: str) -> NewTask:
    task = new_task(image_id)
    return replace(task, data={**task.data, "asked_by": "random", "asked_round": 0})


def export(exporter: Exporter, path: Path) -> Exported:
    return export_file(
        exporter.settings, exporter.project_id, path, is_forced=True, progress=lambda *_: None
    )


def test_the_latest_annotations_and_emails_are_read_before_the_export(
    exporter: Exporter, project: ProjectSetup, api: httpx.Client, tmp_path: Path
) -> None:
    email = api.get("/api/current-user/whoami").raise_for_status().json()["email"]
    first, second = exporter.ids["0.png"], exporter.ids["1.png"]
    tasks = import_images(project, queried_task(first), queried_task(second))
    annotate(api, project, tasks[first], "dog")
    path = tmp_path / "labels.csv"
    assert export(exporter, path).problem == ""
    [row] = pd.read_csv(path).to_dict("records")
    assert (row["image"], row["label"], row["annotators"]) == ("0.png", "dog", email)
    before = path.read_bytes()

    export(exporter, path)
    assert path.read_bytes() == before
    annotate(api, project, tasks[second], "cat")
    export(exporter, path)
    assert set(pd.read_csv(path)["image"]) == {"0.png", "1.png"}
    assert email in exporter.store.facts().emails.values()


def test_label_studio_imports_the_tasks_with_labels_by_the_model_as_predictions(
    exporter: Exporter,
    project: ProjectSetup,
    api: httpx.Client,
    credentials: tuple[str, str],
    tmp_path: Path,
) -> None:
    first, second = exporter.ids["0.png"], exporter.ids["1.png"]
    tasks = import_images(project, queried_task(first), queried_task(second))
    annotate(api, project, tasks[first], "dog")
    annotate(api, project, tasks[second], "cat", ground_truth=True)
    exporter.let_model_label({"2.png": ("cat", 0.9375)})
    path = tmp_path / "labels.json"
    export(exporter, path)

    other = create_project(
        *credentials, title="Imported", label_config=label_config_xml(["cat", "dog"])
    )
    try:
        body = json.loads(path.read_text())
        api.post(f"/api/projects/{other}/import", json=body).raise_for_status()
        found = exported_tasks(api, other)
        assert {i: len(task["annotations"]) for i, task in found.items()} == {
            "0.png": 1,
            "1.png": 1,
            "2.png": 0,
        }
        annotations = LabelStudioProject(*credentials, other).annotations()
        given = {a.label: a.is_ground_truth for of_task in annotations.values() for a in of_task}
        assert given == {"dog": False, "cat": True}
        params = {"task": found["2.png"]["id"]}
        [prediction] = api.get("/api/predictions/", params=params).raise_for_status().json()
        assert prediction["result"][0]["value"] == {"choices": ["cat"]}
        assert (prediction["score"], prediction["model_version"]) == (0.9375, "r0003")
    finally:
        delete_project(*credentials, other)


def exported_tasks(api: httpx.Client, project_id: int) -> dict[str, dict[str, Any]]:
    """Return Label Studio's own export, by the image in each task's data."""
    params = {"exportType": "JSON", "download_all_tasks": "true"}
    found = api.get(f"/api/projects/{project_id}/export", params=params).raise_for_status().json()
    return {task["data"]["image"]: task for task in found}
