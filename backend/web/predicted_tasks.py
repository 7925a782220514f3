"""Find the pool image of a task in a /predict request, and decide whether it may get a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.base.errors import PoolError
from backend.base.image_ids import image_id_of_task
from backend.images.index import Index
from backend.labelstudio import task_data
from backend.store.files import cached_until_changed
from backend.store.finish_store import FinishStore
from backend.store.project_record import POOL_INDEX, read_record

Task = Mapping[str, Any]


@dataclass(frozen=True)
class OwnTasks:
    """The tasks that Tightloop created, whose data states how they were queried."""

    accepted: frozenset[str]  # images of the acceptance sample

    def image_id(self, task: Task) -> str:
        """Return the id of the task's image, or "" if Tightloop did not create the task."""
        return task_data.read_image_id(task.get("data"))

    def is_without_guess(self, task: Task) -> bool:
        """Return whether annotators label the task without a guess."""
        is_validation = task_data.is_validation(task.get("data"))
        return is_validation or self.image_id(task) in self.accepted


@dataclass(frozen=True)
class AttachedTasks:
    """The tasks of an attached project, whose data belongs to the team."""

    index: Index
    accepted: frozenset[str]  # images of the acceptance sample

    def image_id(self, task: Task) -> str:
        """Return the id of the task's image, or "" if the request does not name the task."""
        task_id = task.get("id")
        return image_id_of_task(task_id) if type(task_id) is int else ""

    def is_without_guess(self, task: Task) -> bool:
        """Return whether the task's image is, or will be, in a sample that people label without a
        guess.
        """
        sample, image_id = self.index.sample, self.image_id(task)
        if image_id in self.accepted:
            return True
        if sample is None or not image_id:
            return False
        try:
            [row] = self.index.rows([image_id])
        except PoolError:  # a new task
            return sample.contains(image_id)
        return bool(self.index.splits[row] == "validation")


def predicted_tasks(root: Path) -> OwnTasks | AttachedTasks:
    """Return the reader of a project's tasks, according to its record and its pool's index."""
    record, accepted = read_record(root), FinishStore(root).asked_images()
    if record is None or not record.is_attached:
        return OwnTasks(accepted)
    path = root / POOL_INDEX
    index = _read_index(path) if path.exists() else None
    return AttachedTasks(index or Index.empty(record.pool), accepted)


# An index of 100,000 images takes a fifth of a second to read, and every change replaces the file.
_read_index = cached_until_changed(8)(Index.read)
