"""List and open the images of an attached project: its tasks are the pool."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from threading import Lock
from typing import BinaryIO

from backend.base.errors import ImageError, LabelStudioError, PoolError
from backend.base.image_ids import image_id_of_task
from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.images.data_uri import is_data_uri
from backend.images.digest import digest
from backend.images.listing import Listed, Listing, make_listing, summarize
from backend.labelstudio.attached_project import AttachedProject
from backend.labelstudio.rows import DIGEST, kept_address
from backend.labelstudio.task_images import TaskImages
from backend.labelstudio.unlistable_tasks import UnlistableTasks
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore

KEPT_BYTES = 64 * 1024**2  # of the files that were fetched last
PREFETCHED = 16  # tasks in one request; a data: URI may have several megabytes


class TaskSource:
    """The images of an attached project's tasks, as listed in our copy of Label Studio's data.

    A location is the task's id and its image's address: "17 /data/upload/3/ab-cat.png". The files
    that were fetched last are kept in memory, because a pool measures its first images before it
    decodes them.
    """

    def __init__(
        self, settings: Settings, project_id: int, store: ProjectStore | None = None
    ) -> None:
        """Use the project's database, or another store into which the tasks were read."""
        self.name = source_name(settings.label_studio_url, project_id)
        self._store = store or ProjectStore(project_root(settings.model_dir, project_id))
        self._images = TaskImages(settings)
        token = settings.label_studio_api_key.get_secret_value()
        unlistable = UnlistableTasks(self._store)
        self._project = AttachedProject(settings.label_studio_url, token, project_id, unlistable)
        self._lock = Lock()
        self._kept: dict[str, bytes] = {}  # by location, oldest first
        self._n_bytes = 0

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
        with self._lock:
            content = self._kept.get(location)
        if content is None:
            content = self._fetch(location)
            self._keep(location, content)
        return BytesIO(content)

    def prefetch(self, locations: Sequence[str]) -> None:
        """Fetch data: URIs of several tasks with each request; see `Source.prefetch`."""
        missing = [
            location
            for location in locations
            if location.partition(" ")[2].startswith(DIGEST) and location not in self._kept
        ]
        for first in range(0, len(missing), PREFETCHED):
            try:
                self._fetch_addresses(missing[first : first + PREFETCHED])
            except LabelStudioError:  # `open` reports the error
                return

    def url(self, location: str) -> str | None:  # noqa: ARG002
        """Return None, because the images are already in Label Studio."""
        return None

    def _fetch(self, location: str) -> bytes:
        task_id, _, address = location.partition(" ")
        try:
            if address.startswith(DIGEST):
                found = self._project.image_addresses([int(task_id)])
                whole = found.get(int(task_id), "")
                if kept_address(whole) != address:
                    raise OSError("the task's image has changed since the tasks were read")
                address = whole
            return self._images.read(address)
        except LabelStudioError as error:
            raise OSError(str(error)) from None

    def _fetch_addresses(self, locations: Sequence[str]) -> None:
        """Keep the images of the tasks whose data: URIs have not changed since they were listed."""
        task_ids = [int(location.partition(" ")[0]) for location in locations]
        for task_id, address in self._project.image_addresses(task_ids).items():
            location = f"{task_id} {kept_address(address)}"
            if is_data_uri(address) and location in locations:
                with suppress(ImageError):  # `open` reports the error
                    self._keep(location, self._images.read(address))

    def _keep(self, location: str, content: bytes) -> None:
        with self._lock:
            self._n_bytes += len(content) - len(self._kept.pop(location, b""))
            self._kept[location] = content
            while self._n_bytes > KEPT_BYTES:
                self._n_bytes -= len(self._kept.pop(next(iter(self._kept))))

    def _fault(self, address: str) -> str:
        if not address:
            return "the task has no image"
        return "" if address.startswith(DIGEST) else self._images.fault(address)


def source_name(label_studio_url: str, project_id: int) -> str:
    """Return the name of an attached project's pool: the project's address."""
    return f"{label_studio_url}/projects/{project_id}"
