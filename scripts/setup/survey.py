"""Read a Label Studio project before Tightloop is attached to it; change nothing."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backend.base.classes import ClassList, append_new
from backend.base.errors import ImageError, PoolError
from backend.base.image_ids import image_id_of_task
from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.images.decode import open_image
from backend.images.listing import Listed
from backend.images.validation_sample import draw_sample
from backend.labelstudio.attached_setup import AttachedSetup
from backend.labelstudio.task_source import TaskSource
from backend.rounds.observe import read_changes
from backend.store.project_record import FormerSettings, count_wanted
from backend.store.project_store import ProjectStore
from scripts.setup.existing import ExistingProject, count_labels

MIN_IMAGES = 10
SAMPLED = 50  # images to open, spread over all tasks
SAMPLE_FOR_S = 20.0
THREADS = 8
REASON_LENGTH = 80
# Where an image is stored, by the beginning of its address.
PLACES: Mapping[str, str] = {
    "digest:": "inside their tasks",
    "/data/upload/": "uploaded to Label Studio",
    "/data/local-files/": "in Label Studio's local storage",
    "/tasks/": "in cloud storage",
    "s3:": "in cloud storage",
    "gs:": "in cloud storage",
    "azure-blob:": "in cloud storage",
}
ELSEWHERE = "on web servers"


@dataclass(frozen=True)
class Survey:
    """Reads one project into a database, which may be temporary."""

    settings: Settings
    project: AttachedSetup
    store: ProjectStore
    renamed: tuple[tuple[str, str], ...] = ()  # classes that were renamed before detaching

    def read(self, former: FormerSettings, progress: Progress) -> ExistingProject:
        """Read all tasks and annotations, and open a sample of the images.

        Raises LabelConfigError if Tightloop does not support what annotators do in this project,
        and PoolError if too few images can be used.
        """
        config = self.project.label_config()
        classes = ClassList(append_new((), config.choices), config.choices, self.renamed)
        read_changes(self.project, self.store, is_full=True, progress=progress)
        listing = self._source().list(progress)
        self._check(len(listing.images), config.image_key, listing.left_out)
        sample = spread(listing.images, SAMPLED)
        unreadable = self._open(sample, progress)
        annotated = self.store.annotated_images()
        n_tasks = self.store.n_tasks()
        return ExistingProject(
            project_id=self.project.project_id,
            title=self.project.title(),
            n_tasks=n_tasks,
            n_open=n_tasks - len(annotated),
            config=config,
            former=former,
            labels=count_labels(self.store.annotations().values(), classes),
            images=self._places({image.image_id for image in listing.images}),
            left_out=Counter(listing.left_out.values()),
            n_sampled=len(sample),
            unreadable=unreadable,
            other_backends=self.project.other_backends(self.settings.backend_url),
            annotations_per_task=self.project.task_order().annotations_per_task,
            n_validation=self._count_validation(
                [image.image_id for image in listing.images], annotated
            ),
        )

    def _count_validation(self, image_ids: Sequence[str], annotated: Collection[str]) -> int:
        """Count the images that annotators would label without a guess."""
        n_labels = self.settings.validation_labels
        sample = draw_sample(image_ids, self.settings.seed, n_labels)
        drawn = sample.choose(image_ids) if sample else []
        return count_wanted(len(set(drawn).difference(annotated)), n_labels)

    def _source(self) -> TaskSource:
        return TaskSource(self.settings, self.project.project_id, self.store)

    def _check(self, n_usable: int, image_key: str, left_out: Mapping[str, str]) -> None:
        """Raise PoolError if too few tasks have an image that may be fetched."""
        if n_usable >= MIN_IMAGES:
            return
        reasons = ", ".join(
            f"{count:,} {reason}" for reason, count in Counter(left_out.values()).most_common(3)
        )
        raise PoolError(
            f"{n_usable} of {self.store.n_tasks():,} tasks have an image that Tightloop may fetch, "
            f"but training needs at least {MIN_IMAGES}. The label config reads the image from "
            f'"{image_key}"' + (f"; left out: {reasons}" if reasons else "")
        )

    def _places(self, usable: set[str]) -> dict[str, int]:
        """Count the usable tasks by the place where their image is stored."""
        return dict(
            Counter(
                place_of(task.address)
                for task in self.store.listed_tasks()
                if image_id_of_task(task.task_id) in usable
            ).most_common()
        )

    def _open(self, sample: Sequence[Listed], progress: Progress) -> dict[str, int]:
        """Open sampled images for at most SAMPLE_FOR_S; count the failures by reason.

        Raises PoolError if no image can be read.
        """
        source, until = self._source(), time.monotonic() + SAMPLE_FOR_S

        def fault(image: Listed) -> str | None:
            if time.monotonic() > until:
                return None
            try:
                with (
                    source.open(image.location) as file,
                    open_image(file, self.settings.max_image_pixels),
                ):
                    return ""
            except (ImageError, OSError) as error:
                return short_reason(error)

        progress("opening images", 0, 0)
        with ThreadPoolExecutor(THREADS) as threads:
            faults = [found for found in threads.map(fault, sample) if found is not None]
        failed = Counter(filter(None, faults))
        if failed and failed.total() == len(faults):
            reasons = "; ".join(reason for reason, _ in failed.most_common(3))
            raise PoolError(
                f"none of {len(faults)} images that were tried can be read ({reasons}): check that "
                "annotators see the images in Label Studio, and that the user of "
                "LABEL_STUDIO_API_KEY may open them"
            )
        return dict(failed)


def spread(images: Sequence[Listed], count: int) -> list[Listed]:
    """Return up to `count` images at equal distances."""
    step = max(1, len(images) / count)
    return [images[int(i * step)] for i in range(min(count, len(images)))]


def place_of(address: str) -> str:
    """Describe where an image is stored, given the address that the mirror keeps."""
    for beginning, place in PLACES.items():
        if address.startswith(beginning):
            return place
    return ELSEWHERE


def short_reason(error: Exception) -> str:
    """Return why an image cannot be read, without its address, so that equal reasons are counted
    together.
    """
    text = getattr(error, "strerror", None) or str(error)
    return re.sub(r" (for|at) '?[^ ']+'?|\(.*\)|'[^']*'", "", text).strip()[:REASON_LENGTH]
