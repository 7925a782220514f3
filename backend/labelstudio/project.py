"""Read and change one project in Label Studio: its tasks, annotations and predictions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Any

from backend.base.errors import LabelStudioError, ProjectGoneError
from backend.base.labeling import (
    CLOCK_SKEW_S,
    DELETED,
    IMPORTED_S,
    Annotation,
    LabelConfig,
    NewTask,
    Prediction,
    ProjectCounts,
    Task,
    TaskImage,
    TaskOrder,
    TaskReading,
)
from backend.labelstudio import rows, task_data
from backend.labelstudio.client import UNCERTAINTY_SAMPLING, LabelStudio
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.task_listing import UNFINISHED, task_filter
from backend.labelstudio.task_pages import TaskPages, chunks
from backend.labelstudio.task_versions import find_predicted
from backend.labelstudio.unlistable_tasks import UnlistableTasks

OUR_DESCRIPTION = "Tightloop, round"  # how every project description that we write begins
CLOCK_SKEW = timedelta(seconds=CLOCK_SKEW_S)  # readings of changes start this much earlier
# For each part of a task: the field of an import's response that counts it.
IMPORT_COUNTS = {"annotations": "annotation_count", "predictions": "prediction_count"}


class LabelStudioProject:
    """A Label Studio project. Methods raise LabelStudioError, whose message says what to do."""

    _task_columns = rows.TASK_COLUMNS

    def __init__(
        self,
        url: str,
        api_key: str,
        project_id: int,
        unlistable: UnlistableTasks | None = None,
        created_at: str = "",  # if given, a project created at another time counts as gone
    ) -> None:
        self.project_id = project_id
        self._created_at = created_at
        self._server = LabelStudio(url, api_key)
        self._unlistable = unlistable or UnlistableTasks()
        self._tasks = TaskPages(self._server, project_id, self._unlistable)
        self._path = f"api/projects/{project_id}/"
        self._label_config: LabelConfig | None = None

    def title(self) -> str:
        """Return the project's title."""
        return str(self._read()["title"])

    def created_at(self) -> str:
        """Return the project's creation time, to distinguish it from another server's project."""
        return str(self._read()["created_at"])

    def label_config(self) -> LabelConfig:
        """Return the label config, which is kept until tasks are read again.

        Raises LabelConfigError if the label config is unusable.
        """
        if self._label_config is None:
            self._label_config = parse_label_config(self.label_config_xml())
        return self._label_config

    def label_config_xml(self) -> str:
        """Return the label config as Label Studio stores it."""
        return str(self._read()["label_config"])

    def set_description(self, text: str) -> bool:
        """Set the description unless a person wrote the current one; return whether it changed."""
        now = str(self._read()["description"] or "")
        if now == text or (now and not now.startswith(OUR_DESCRIPTION)):
            return False
        self._change(description=text)
        return True

    def annotator_names(self) -> dict[int, str]:
        """Return the names of all users, by id."""
        return {
            user["id"]: f"{user['first_name']} {user['last_name']}".strip() or user["email"]
            for user in self._server.request("GET", "api/users/")
        }

    def annotator_emails(self) -> dict[int, str]:
        """Return the emails of all users, by id."""
        return {user["id"]: user["email"] for user in self._server.request("GET", "api/users/")}

    def create_account(self, email: str) -> None:
        """Create a user without a password, whose annotations can be imported."""
        self._server.request("POST", "api/users/", json={"email": email, "username": email})

    # Tasks

    def counts(self) -> ProjectCounts:
        """Count tasks and annotations with three cheap requests."""
        return self._tasks.counts()

    def n_tasks(self) -> int:
        """Count the project's tasks with one cheap request."""
        return self._tasks.n_tasks()

    def count_annotations(self) -> int:
        """Count the annotations and skips of all tasks with one cheap request."""
        return self._tasks.count_annotations()

    def tasks(self) -> list[Task]:
        """Return all tasks, oldest first."""
        pages = self._tasks.read(self._task_columns)
        return [rows.read_task(task, self._image_id_of(task)) for task in pages]

    def image_ids(self) -> set[str]:
        """Return the image ids of all tasks, whether open or not."""
        return {task.image_id for task in self.tasks()} - {""}

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        """Yield all tasks with their annotations, or only tasks that changed after a given time.

        New tasks and tasks that lost an annotation count as changed. Deleted tasks are not found.
        The time is compared with Label Studio's clock, so pass a time CLOCK_SKEW before the last
        reading. The label config is read first. Raises LabelConfigError if it is unusable.
        """
        self._label_config = None
        config = self.label_config()
        filters = []
        if changed_after is not None:
            moment = changed_after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            filters = [task_filter("updated_at", "greater", "Datetime", moment)]
        self._tasks.recheck_unlisted()
        for task in self._tasks.read(rows.ANNOTATION_COLUMNS, filters):
            yield self._read_task(task, config)

    def open_tasks(
        self, skipped: Set[int] = frozenset(), among: Collection[int] | None = None
    ) -> list[Task]:
        """Return the tasks that await a first or further annotation, oldest first.

        Tasks that were only skipped are left out, except the tasks in `skipped`. With `among`, only
        these tasks are read, in one request for every CHUNK tasks.
        """
        found = [
            rows.read_task(task, self._image_id_of(task))
            for task in self._tasks.read(self._task_columns, [UNFINISHED], among)
        ]
        return [
            task
            for task in found
            if task.is_open or task.awaits_second_opinion or task.task_id in skipped
        ]

    def predicted_by(self, version: str, task_ids: Collection[int]) -> set[int]:
        """Return which of these tasks have a prediction of this version."""
        return find_predicted(self._server, self._tasks, version, task_ids)

    def reopen(self, task_id: int, n_annotators: int) -> None:
        """Keep a task open until `n_annotators` annotators in total have annotated it.

        Deleted tasks, and tasks that Label Studio cannot list, are ignored.
        """
        if task_id in self._unlistable.unlisted:
            return
        changes = {"overlap": n_annotators, "is_labeled": False}
        params = {"review": "true", "include": "id"}  # do not compute averages; see task_pages.py
        path = f"api/tasks/{task_id}/"
        self._server.request("PATCH", path, params=params, json=changes, may_be_gone=True)

    def upload(self, images: Mapping[str, TaskImage]) -> dict[str, str]:
        """Upload images without creating tasks; return the path that each image's task must show.

        Label Studio accepts up to 100 files in one request.
        """
        if not images:
            return {}
        files = {
            image_id: (f"{image_id}.{image.mime.removeprefix('image/')}", image.content, image.mime)
            for image_id, image in images.items()
        }
        answer = self._server.request(
            "POST", f"{self._path}import", params={"commit_to_project": "false"}, files=files
        )
        found = self._server.request(
            "GET",
            f"{self._path}file-uploads",
            params={"ids": json.dumps(answer["file_upload_ids"])},
        )
        # Label Studio puts a random prefix before the file's name: upload/7/3ec1bb7e-<image_id>.png
        path_of = {row["file"].partition("-")[2]: row["file"] for row in found}
        names = {image_id: name for image_id, (name, _, _) in files.items()}
        self._check_count("uploads", len(files), len({*names.values()} & path_of.keys()))
        return {image_id: f"/data/{path_of[name]}" for image_id, name in names.items()}

    def import_tasks(self, new_tasks: Sequence[NewTask]) -> int:
        """Create tasks, each with its prediction and labels; return their number."""
        if not new_tasks:
            return 0
        config = self.label_config()
        for chunk in chunks([rows.write_task(config, task) for task in new_tasks]):
            created = self._server.request("POST", f"{self._path}import", json=chunk)
            self._check_count("tasks", len(chunk), created.get("task_count"))
            for part, count in IMPORT_COUNTS.items():
                sent = sum(len(task.get(part, ())) for task in chunk)
                self._check_count(part, sent, created.get(count))
        return len(new_tasks)

    def delete_tasks(self, task_ids: Sequence[int]) -> None:
        """Delete tasks and their contents; ignore tasks that no longer exist."""
        if not task_ids:  # Label Studio takes an empty list to mean all tasks
            return
        self._server.request(
            "POST",
            "api/dm/actions/",
            params={"id": "delete_tasks", "project": self.project_id},
            json={"selectedItems": {"all": False, "included": list(task_ids)}},
        )

    # Annotations

    def annotations(self) -> dict[int, list[Annotation]]:
        """Return all annotations by task."""
        return {task.task.task_id: list(task.annotations) for task in self.read_tasks()}

    def annotations_of(self, image_id: str) -> dict[int, list[Annotation]]:
        """Return the annotations of one image, by task."""
        config = self.label_config()
        pages = self._tasks.read(rows.ANNOTATION_COLUMNS, [self._filter_of(image_id)])
        return {task["id"]: list(self._read_task(task, config).annotations) for task in pages}

    def add_ground_truth(self, task_id: int, label: str, annotator: int | None) -> None:
        """Annotate a task in an annotator's name, and make this annotation the task's only ground
        truth. If the annotator's account was deleted, annotate as the token's user.
        """
        body: dict[str, Any] = {
            "result": rows.prediction_result(self.label_config(), label),
            "ground_truth": True,
        }
        if annotator not in (None, DELETED):
            body["completed_by"] = annotator
        self._server.request("POST", f"api/tasks/{task_id}/annotations/", json=body)

    def annotate(self, task_id: int, label: str, annotator: int) -> bool:
        """Import an annotation by an annotator; return False if the task no longer exists."""
        body = {
            "result": rows.prediction_result(self.label_config(), label),
            "completed_by": annotator,
            "lead_time": IMPORTED_S,
        }
        path = f"api/tasks/{task_id}/annotations/"
        return self._server.request("POST", path, json=body, may_be_gone=True) is not None

    def delete_annotation(self, annotation_id: int) -> None:
        """Delete an annotation; ignore annotations that no longer exist."""
        self._server.request("DELETE", f"api/annotations/{annotation_id}/", may_be_gone=True)

    def remove_lead_time(self, annotation_id: int) -> None:
        """Remove the record of how long an annotation took; ignore deleted annotations."""
        path = f"api/annotations/{annotation_id}/"
        self._server.request("PATCH", path, json={"lead_time": None}, may_be_gone=True)

    # Predictions

    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int:
        """Add a prediction to each of these tasks; return their number.

        Not idempotent: leave out tasks whose `versions` already include the version. If even one of
        the tasks was deleted, Label Studio rejects the whole chunk; in that case, read the tasks
        again and retry.
        """
        if not by_task_id:
            return 0
        config = self.label_config()
        for chunk in chunks(
            [{"task": i, **rows.write_prediction(config, p)} for i, p in by_task_id.items()]
        ):
            created = self._server.request("POST", f"{self._path}import/predictions", json=chunk)
            self._check_count("predictions", len(chunk), created.get("created"))
        return len(by_task_id)

    def task_order(self) -> TaskOrder:
        """Return the settings that decide which task annotators get next."""
        now = self._read()
        return TaskOrder(
            is_by_confidence=now["sampling"] == UNCERTAINTY_SAMPLING,
            model_version=str(now["model_version"] or ""),
            annotations_per_task=now["maximum_annotations"],
            has_predictions=now["total_predictions_number"] > 0,
        )

    def model_version(self) -> str:
        """Return the model version whose predictions order the tasks, or ""."""
        return self.task_order().model_version

    def switch_model_version(self, version: str) -> None:
        """Order tasks by this version's predictions.

        Raises LabelStudioError if the version has no predictions.
        """
        self._change(model_version=version)

    def model_versions(self) -> list[str]:
        """Return the model versions of all predictions."""
        found = self._server.request("GET", f"{self._path}model-versions/")
        # Label Studio lists the current version even without predictions, with a count of 0.
        return [version for version, count in found.items() if count]

    def delete_predictions(self, version: str) -> None:
        """Delete all predictions of a version."""
        self._server.request(
            "DELETE", f"{self._path}model-versions/", json={"model_version": version}
        )

    # What an attached project does differently

    def _image_id_of(self, task: Mapping[str, Any]) -> str:
        return task_data.read_image_id(task["data"])

    def _filter_of(self, image_id: str) -> dict[str, Any]:
        return task_filter("data.image_id", "equal", "String", image_id)

    def _read_task(self, task: Mapping[str, Any], config: LabelConfig) -> TaskReading:
        return rows.read_own_task(task, config)

    def _read(self) -> Mapping[str, Any]:
        found = self._server.request("GET", self._path)
        if self._created_at and found["created_at"] != self._created_at:
            raise ProjectGoneError(self._server.url, is_replaced=True)
        return dict(found)

    def _change(self, **fields: Any) -> None:
        self._server.request("PATCH", self._path, json=fields)

    def _check_count(self, what: str, sent: int, kept: int | None) -> None:
        if kept != sent:
            raise LabelStudioError(
                f"Label Studio at {self._server.url} kept {kept} of {sent} {what}: "
                "check that the label config has not changed, and try again"
            )
