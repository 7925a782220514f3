"""Make a project as a team makes it in the browser, and save everything that an export shows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import httpx
from PIL import Image

CONFIG = """<View>
  <Image name="pic" value="$photo"/>
  <Choices name="kind" toName="pic" choice="single-radio">
    <Choice value="Sparrow"/><Choice value="robin" alias="Robin"/>
  </Choices>
</View>"""
CLASSES = ("Sparrow", "Robin")
# What Label Studio itself changes when annotations are added or a project is saved.
COUNTERS = {
    "updated_at", "total_annotations_number", "total_predictions_number", "queue_total",
    "queue_done", "finished_task_number", "num_tasks_with_annotations", "task_number",
    "useful_annotation_number", "ground_truth_number", "skipped_annotations_number",
    "control_weights", "pinned_at", "ready",
}  # fmt: skip


def make_existing(
    api: httpx.Client, title: str = "Birds", n_images: int = 30, n_labeled: int = 0, **fields: Any
) -> int:
    """Create a project with uploaded images, of which the first are labeled; return its id."""
    body = {"title": title, "label_config": CONFIG, **fields}
    project_id = int(api.post("/api/projects/", json=body).raise_for_status().json()["id"])
    upload(api, project_id, [png(number) for number in range(n_images)])
    for number, task_id in enumerate(task_ids(api, project_id)[:n_labeled]):
        label(api, task_id, CLASSES[number % 2])
    return project_id


def png(number: int) -> bytes:
    """Return an image of one color."""
    content = io.BytesIO()
    Image.new("RGB", (40, 40), (number * 7 % 256, number % 2 * 255, 90)).save(content, "PNG")
    return content.getvalue()


def upload(api: httpx.Client, project_id: int, contents: Sequence[bytes]) -> None:
    """Upload files, each of which becomes a task."""
    files = {f"{i}": (f"bird-{i}.png", content, "image/png") for i, content in enumerate(contents)}
    api.post(f"/api/projects/{project_id}/import", files=files).raise_for_status()


def task_ids(api: httpx.Client, project_id: int) -> list[int]:
    params: dict[str, Any] = {"project": project_id, "page_size": 500}
    found = api.get("/api/tasks/", params=params).raise_for_status().json()["tasks"]
    return sorted(task["id"] for task in found)


def label(api: httpx.Client, task_id: int, choice: str, from_name: str = "kind") -> int:
    """Annotate a task as a person does; return the annotation's id."""
    region = {"from_name": from_name, "to_name": "pic", "type": "choices"}
    body = {"result": [{**region, "value": {"choices": [choice]}}]}
    made = api.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()
    return int(made.json()["id"])


def export(api: httpx.Client, project_id: int) -> dict[str, Any]:
    """Return the project's settings, tasks, annotations, predictions, connections and tabs."""

    def get(path: str, **params: Any) -> Any:
        return api.get(path, params=params).raise_for_status().json()

    settings = get(f"/api/projects/{project_id}/")
    tasks = get(f"/api/projects/{project_id}/export", exportType="JSON", download_all_tasks="true")
    return {
        "settings": {k: v for k, v in settings.items() if k not in COUNTERS},
        # Label Studio still counts predictions that were deleted with their version.
        "tasks": {task.pop("id"): {**task, "total_predictions": None} for task in tasks},
        "webhooks": get("/api/webhooks/", project=project_id),
        "backends": [
            {k: v for k, v in row.items() if k != "updated_at"}
            for row in get("/api/ml/", project=project_id)
        ],
        "tabs": get("/api/dm/views/", project=project_id),
        "versions": get(f"/api/projects/{project_id}/model-versions/"),
    }


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Return where two exports differ, with both values."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        found = [differences(before.get(k), after.get(k), f"{path}/{k}") for k in keys]
        return [line for lines in found for line in lines]
    return [f"{path}: {before!r} -> {after!r}"]
