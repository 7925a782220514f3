"""Read and change a project whose tasks belong to a team, adding only predictions to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from backend.base.image_ids import image_id_of_task, task_id_of_image
from backend.base.labeling import LabelConfig, Prediction, TaskOrder, TaskReading
from backend.base.settings import Settings
from backend.labelstudio import rows
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.task_listing import task_filter
from backend.labelstudio.unlistable_tasks import UnlistableTasks
from backend.store.project_record import check_attached, project_root, read_record
from backend.store.project_store import ProjectStore
from backend.store.version_meta import VERSION_NAME


class AttachedProject(LabelStudioProject):
    """A Label Studio project that existed before Tightloop was attached to it.

    An image is identified by its task; an `image_id` in the task's data is ignored. In Label
    Studio, the names of our versions contain the project's id: `tl12-r0007` is `r0007` in project
    12. The predictions of all other versions belong to the team.
    """

    _task_columns = rows.STATE_COLUMNS  # without the data, which may contain whole images

    def image_addresses(self, task_ids: Collection[int]) -> dict[int, str]:
        """Return the address of the image in each of these tasks, or its whole data: URI."""
        config = self.label_config()
        return {
            task["id"]: str(rows.image_of(task["data"], config) or "")
            for task in self._tasks.read("id,data", among=task_ids)
        }

    def predicted_by(self, version: str, task_ids: Collection[int]) -> set[int]:
        """Return which of these tasks have a prediction of this version of ours."""
        return super().predicted_by(self._name(version), task_ids)

    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int:
        """Add a prediction to each of these tasks; return their number."""
        return super().import_predictions(
            {
                task_id: replace(prediction, model_version=self._name(prediction.model_version))
                for task_id, prediction in by_task_id.items()
            }
        )

    def task_order(self) -> TaskOrder:
        """Return the settings that decide which task annotators get next.

        If a model version of the team is named like ours, its name is put in quotation marks.
        """
        order = super().task_order()
        named = order.model_version
        theirs = f'"{named}"' if VERSION_NAME.fullmatch(named) else named
        return replace(order, model_version=self._our_version(named) or theirs)

    def switch_model_version(self, version: str) -> None:
        """Order tasks by the predictions of one of our versions."""
        super().switch_model_version(self._name(version))

    def model_versions(self) -> list[str]:
        """Return our model versions that have predictions."""
        return [*filter(None, map(self._our_version, super().model_versions()))]

    def delete_predictions(self, version: str) -> None:
        """Delete all predictions of one of our versions."""
        super().delete_predictions(self._name(version))

    def _name(self, version: str) -> str:
        """Return the name that one of our versions has in Label Studio."""
        return f"{self._prefix}{version}"

    def _our_version(self, name: str) -> str:
        """Return our version that has this name in Label Studio, or "" if it is a team's name."""
        version = name.removeprefix(self._prefix)
        return version if version != name and VERSION_NAME.fullmatch(version) else ""

    @property
    def _prefix(self) -> str:
        return f"tl{self.project_id}-"

    def _image_id_of(self, task: Mapping[str, Any]) -> str:
        return image_id_of_task(task["id"])

    def _filter_of(self, image_id: str) -> dict[str, Any]:
        return task_filter("id", "equal", "Number", task_id_of_image(image_id))

    def _read_task(self, task: Mapping[str, Any], config: LabelConfig) -> TaskReading:
        return rows.read_attached_task(task, config)


def open_project(settings: Settings, project_id: int) -> LabelStudioProject:
    """Connect to a project; its record states whether Tightloop is attached to it.

    Raises DetachedError if Tightloop was detached from the project. Otherwise, the project's tasks
    would be read as tasks that we created.
    """
    root = project_root(settings.model_dir, project_id)
    check_attached(root)
    record = read_record(root)
    kind = AttachedProject if record is not None and record.is_attached else LabelStudioProject
    token = settings.label_studio_api_key.get_secret_value()
    unlistable = UnlistableTasks(ProjectStore(root))
    created_at = record.project_created_at if record else ""
    return kind(settings.label_studio_url, token, project_id, unlistable, created_at)
