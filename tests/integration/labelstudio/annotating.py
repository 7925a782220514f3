"""Import tasks with predictions, and annotate them."""

from __future__ import annotations

from typing import Any

import httpx

from backend.base.labeling import NewTask, Prediction
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.project_setup import ProjectSetup
from backend.labelstudio.rows import prediction_result


def guess(score: float, version: str = "r0001", label: str = "cat") -> Prediction:
    return Prediction(label, probability=0.75, score=score, model_version=version)


def new_task(
    image_id: str, prediction: Prediction | None = None, label: str | None = None
) -> NewTask:
    data = {"image": "data:image/png;base64,", "image_id": image_id}
    return NewTask(image_id, data, prediction, label)


def import_images(project: ProjectSetup, *tasks: NewTask) -> dict[str, int]:
    """Import tasks and return their ids by image id."""
    assert project.import_tasks(tasks) == len(tasks)
    return {task.image_id: task.task_id for task in project.tasks()}


def annotate(
    api: httpx.Client, project: LabelStudioProject, task_id: int, label: str | None, **fields: Any
) -> int:
    """Submit an annotation and return its id."""
    result = [] if label is None else prediction_result(project.label_config(), label)
    made = api.post(f"/api/tasks/{task_id}/annotations/", json={"result": result, **fields})
    return int(made.raise_for_status().json()["id"])


def served(api: httpx.Client, project: ProjectSetup) -> str | None:
    """Return the image that the annotator gets next."""
    answer = api.get(f"/api/projects/{project.project_id}/next")
    if answer.status_code == 404:
        return None
    return str(answer.raise_for_status().json()["data"]["image_id"])


def served_order(api: httpx.Client, project: ProjectSetup, count: int) -> list[str]:
    """Annotate the next tasks and return their image ids in the order served."""
    served = []
    for _ in range(count):
        task = api.get(f"/api/projects/{project.project_id}/next").raise_for_status().json()
        served.append(task["data"]["image_id"])
        annotate(api, project, task["id"], "cat")
    return served
