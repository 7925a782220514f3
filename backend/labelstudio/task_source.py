"""List and open the images of an attached project: its tasks are the pool."""

from __future__ import annotations

from io import BytesIO
from typing import BinaryIO

from backend.base.errors import LabelStudioError, PoolError
from backend.base.image_ids import image_id_of_task
from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.images.digest import digest
from backend.images.listing import Listed, Listing, make_listing, summarize
from backend.labelstudio.attached_project import AttachedProject
from backend.labelstudio.rows import DIGEST, kept_address
from backend.labelstudio.task_images import TaskImages
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore


class TaskSource:
    """The images of an attached project's tasks, as the copy of Label Studio's data lists them.

    A location is the task's id and its image's address: "17 /data/upload/3/ab-cat.png".
    """

    def __init__(
        self, settings: Settings, project_id: int, store: ProjectStore | None = None
    ) -> None:
        """Use the project's database, or another store into which the tasks were read."""
        self.name = source_name(settings.label_studio_url, project_id)
        self._store = store or ProjectStore(project_root(settings.model_dir, project_id))
        self._images = TaskImages(settings)
        token = settings.label_studio_api_key.get_secret_value()
        self._project = AttachedProject(settings.label_studio_url, token, project_id)

    def list(self, progress: Progress) -> Listing:  # noqa: ARG002
        """List the images of all tasks, without a request; see `Source.list`."""
        if not self._store.facts().full_read_at:
            raise PoolError(f"the tasks of {self.name} have not been read yet: wait a minute")
        left_out: dict[str, str] = {}
        images = []
        for task in self._store.listed_tasks():
            location = f"{task.task_id} {task.address}"
            if fault := self._fault(task.address):
                left_out[location] = fault
                continue
            image_id = image_id_of_task(task.task_id)
            images.append(Listed(image_id, location, modified=digest(task.address)))
        if not images:
            why = summarize(left_out, 0) or "the project has no tasks"
            raise PoolError(f"no task of {self.name} has an image that can be used: {why}")
        return make_listing(images, left_out, ())

    def open(self, location: str) -> BinaryIO:
        """Fetch an image; see `Source.open`."""
        task_id, _, address = location.partition(" ")
        try:
            if address.startswith(DIGEST):
                value = self._project.image_value(int(task_id))
                if kept_address(value) != address:
                    raise OSError("the task's image has changed since the tasks were read")
                address = value
            return BytesIO(self._images.read(address))
        except LabelStudioError as error:
            raise OSError(str(error)) from None

    def url(self, location: str) -> str | None:  # noqa: ARG002
        """Return None, because the images are in Label Studio already."""
        return None

    def _fault(self, address: str) -> str:
        if not address:
            return "the task has no image"
        return "" if address.startswith(DIGEST) else self._images.fault(address)


def source_name(label_studio_url: str, project_id: int) -> str:
    """Return the name of an attached project's pool: the project's address."""
    return f"{label_studio_url}/projects/{project_id}"
