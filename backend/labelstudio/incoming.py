"""Read what Label Studio sends: webhooks, and the project ids in ML backend requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from backend.base.image_ids import image_id_of_task
from backend.labelstudio import task_data

SECRET_HEADER = "X-Tightloop-Secret"
# The webhooks that we subscribe to, each with the key that lists its changes; None = one change.
CHANGED_LISTS: dict[str, str | None] = {
    "ANNOTATION_CREATED": None,
    "ANNOTATION_UPDATED": None,
    "ANNOTATIONS_CREATED": "annotation",
    "ANNOTATIONS_DELETED": "annotations",
    "TASKS_DELETED": "tasks",
}


@dataclass(frozen=True)
class WebhookEvent:
    """The parts of a webhook that we use; an ignored webhook has project 0."""

    kind: Literal["annotations", "start_training", "ignored"]
    project_id: int
    annotated: tuple[str, ...] = ()  # ids of annotated images in tasks that we created
    task_ids: tuple[int, ...] = ()  # ids of all annotated tasks

    def images(self, *, is_attached: bool) -> tuple[str, ...]:
        """Return the ids of the annotated images."""
        return tuple(map(image_id_of_task, self.task_ids)) if is_attached else self.annotated


IGNORED = WebhookEvent("ignored", 0)


def read_webhook(payload: object) -> WebhookEvent:
    """Read a webhook's JSON. Raises ValueError if it is malformed."""
    if not isinstance(payload, Mapping):
        raise ValueError("a webhook's body must be a JSON object")
    action = payload.get("action")
    if not isinstance(action, str):
        raise ValueError("a webhook must name its action")
    if action == "START_TRAINING":
        return WebhookEvent("start_training", _read_project(payload))
    if action not in CHANGED_LISTS:
        return IGNORED
    key = CHANGED_LISTS[action]
    if key is not None:
        changed = payload.get(key)
        if not isinstance(changed, list):
            raise ValueError(f"the webhook {action} must contain a list `{key}`")
        if not changed:
            return IGNORED
    found = payload.get("task")
    tasks = [t for t in (found if isinstance(found, list) else [found]) if isinstance(t, Mapping)]
    image_ids = [task_data.read_image_id(task.get("data")) for task in tasks]
    return WebhookEvent(
        "annotations",
        _read_project(payload),
        annotated=tuple(filter(None, image_ids)),
        task_ids=tuple(task["id"] for task in tasks if type(task.get("id")) is int),
    )


def project_id_of(project: object) -> int:
    """Return the id in the `project` field of a /setup or /predict request, for example 25.

    The field looks like "25.1795346887". Raises ValueError if it is malformed.
    """
    if not isinstance(project, str) or not re.fullmatch(r"[0-9]{1,18}(\.[0-9]*)?", project):
        raise ValueError('project must look like "25.1795346887"')
    return int(project.partition(".")[0])


def _read_project(payload: Mapping[Any, Any]) -> int:
    match payload:
        case {"project": {"id": int(project_id)}} if 0 < project_id < 2**63 and not (
            isinstance(project_id, bool)
        ):
            return project_id
    raise ValueError("a webhook must contain its project's id: create it with send_payload")
