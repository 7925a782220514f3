"""Store the tries to have the model label the rest of a project's images.

A try begins with the images that the model is confident about, its labels for them at that moment,
and a random sample of these images that people must label: the acceptance sample. If people find
few enough errors in the sample, the try passes, and the other images keep the model's labels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

from backend.base.errors import FinishError
from backend.base.labeling import Annotation, Task
from backend.measures.acceptance import allowed_wrong
from backend.store.mirror import Mirror
from backend.store.project_db import select, writing

TryState = Literal["asking", "passed", "failed", "canceled"]
COLUMNS = (
    "number, started_at, version, max_error, share, threshold, n_images, n_sample, "
    "allowed_errors, n_unlabeled, state, n_errors, ended_at, n_decided"
)
_PASSED = "try IN (SELECT number FROM own_finish_try WHERE state = 'passed') AND place IS NULL"
_NOT_PASSED = (
    "try IN (SELECT number FROM own_finish_try WHERE state IN ('failed', 'canceled')) "
    "AND place IS NULL"
)
_SAMPLED = "SELECT image_id FROM own_finish_image WHERE try = ? AND place IS NOT NULL"
_LABELED = "SELECT image_id FROM mirror_annotation WHERE answer IS NOT NULL AND label IS NOT NULL"


@dataclass(frozen=True)
class FinishTry:
    """A try to have the model label the rest of the images, with its plan and its result."""

    number: int  # from 1
    started_at: float  # seconds since the epoch
    version: str  # whose labels the try is about
    max_error: float  # the promise: at most this share of the model's labels is wrong
    share: float  # this try's part of the risk that any promise of the project is broken
    threshold: float  # the lowest confidence of the images
    n_images: int  # including the sample
    n_sample: int
    allowed_errors: int  # the most errors in the sample with which the try passes
    n_unlabeled: int  # the images without a task when the try began, including n_images
    state: TryState = "asking"
    n_errors: int = 0  # found in the sample; final once the try has ended
    ended_at: float | None = None
    n_decided: int = 0  # images of the sample that people had judged when it ended

    @property
    def n_left(self) -> int:
        """Return how many images the model labels if the try passes."""
        return self.n_images - self.n_sample

    @property
    def most_wrong(self) -> int:
        """Return how many of the model's labels may be wrong without breaking the promise."""
        return allowed_wrong(self.n_left, self.max_error)


@dataclass(frozen=True)
class FinishImage:
    """An image of a try, with the model's label and confidence when the try began."""

    image_id: str
    label: str  # the name of a class when the try began
    confidence: float


@dataclass(frozen=True)
class SampledImage:
    """An image of an acceptance sample."""

    image_id: str
    label: str  # the model's
    is_lost: bool  # it can no longer be labeled, because the pool has lost it


@dataclass(frozen=True)
class ModelLabel:
    """A label that the model gave to an image in a try that passed."""

    label: str  # the name of a class when the try began
    confidence: float
    version: str
    try_number: int


class FinishStore(Mirror):
    """The tries in a project's database; see `ProjectStore` for connections and errors."""

    def tries(self) -> list[FinishTry]:
        """Return all tries, oldest first."""
        query = f"SELECT {COLUMNS} FROM own_finish_try ORDER BY number"
        return [FinishTry(*row) for row in select(self._root, query)]

    def current(self) -> FinishTry | None:
        """Return the last try if it is asking or has passed."""
        last = next(reversed(self.tries()), None)
        return last if last is not None and last.state in ("asking", "passed") else None

    def asking(self) -> FinishTry | None:
        """Return the try whose sample people are labeling."""
        last = self.current()
        return last if last is not None and last.state == "asking" else None

    def begin(self, begun: FinishTry, images: Sequence[FinishImage], sample: Sequence[str]) -> None:
        """Record a new try with its images; `sample` lists some of them in random order.

        Raises FinishError if another try is asking, or if another process began this try.
        """
        places = {image_id: place for place, image_id in enumerate(sample)}
        rows = (
            (begun.number, i.image_id, i.label, i.confidence, places.get(i.image_id), 0)
            for i in images
        )
        with writing(self._root) as db:
            query = "SELECT number, state FROM own_finish_try ORDER BY number"
            before = db.execute(query).fetchall()
            if any(state == "asking" for _, state in before):
                raise FinishError(
                    "an acceptance sample is already being labeled: wait until it is complete, or "
                    "run `python -m scripts.finish --cancel`"
                )
            if begun.number != len(before) + 1:
                raise FinishError("another process began a try at the same time: rerun the command")
            db.execute(
                f"INSERT INTO own_finish_try ({COLUMNS}) VALUES ({_marks(14)})", astuple(begun)
            )
            db.executemany(f"INSERT INTO own_finish_image VALUES ({_marks(6)})", rows)

    def end(
        self, number: int, state: TryState, n_errors: int, at: float, n_decided: int = 0
    ) -> None:
        """Record how a try ended, and how many images of its sample people had judged by then.

        A try that passed can still be canceled. All other tries end only once. If a try
        does not pass, only its sample is kept: nothing uses the model's other labels, and each try
        would add a row for every image of a large pool.
        """
        before = ("asking", "passed") if state == "canceled" else ("asking",)
        with writing(self._root) as db:
            db.execute(
                "UPDATE own_finish_try SET state = ?, n_errors = ?, ended_at = ?, n_decided = ? "
                f"WHERE number = ? AND state IN ({_marks(len(before))})",
                (state, n_errors, at, n_decided, number, *before),
            )
            db.execute(f"DELETE FROM own_finish_image WHERE {_NOT_PASSED}")

    def model_labels(self) -> dict[str, ModelLabel]:
        """Return a mapping from image id to the model's label, for all tries that passed.

        The samples are not included. If a person has labeled one of the images since, the person's
        label counts instead.
        """
        query = (
            "SELECT image_id, label, confidence, version, try FROM own_finish_image "
            f"JOIN own_finish_try ON number = try WHERE {_PASSED} ORDER BY image_id"
        )
        return {image_id: ModelLabel(*row) for image_id, *row in select(self._root, query)}

    def n_model_labels(self) -> int:
        """Count the labels of all tries that passed, without images that a person has labeled."""
        query = (
            f"SELECT count(*) FROM own_finish_image WHERE {_PASSED} "
            f"AND image_id NOT IN ({_LABELED})"
        )
        return int(select(self._root, query)[0][0])

    def reserved(self) -> set[str]:
        """Return the images of all tries that are asking or have passed.

        These images are not queried for anything else.
        """
        query = (
            "SELECT image_id FROM own_finish_image WHERE try IN "
            "(SELECT number FROM own_finish_try WHERE state IN ('asking', 'passed'))"
        )
        return {image_id for (image_id,) in select(self._root, query)}

    # The acceptance sample

    def sample(self, number: int) -> list[str]:
        """Return the images of a try's acceptance sample, in random order."""
        return [image.image_id for image in self.sampled_images(number)]

    def sampled_images(self, number: int) -> list[SampledImage]:
        """Return a try's acceptance sample in random order, with the model's labels."""
        query = (
            "SELECT image_id, label, is_lost FROM own_finish_image "
            "WHERE try = ? AND place IS NOT NULL ORDER BY place"
        )
        return [
            SampledImage(image_id, label, bool(is_lost))
            for image_id, label, is_lost in select(self._root, query, number)
        ]

    def record_lost(self, number: int, image_ids: Collection[str]) -> None:
        """Record that these images of a sample can no longer be labeled."""
        with writing(self._root) as db:
            db.executemany(
                "UPDATE own_finish_image SET is_lost = 1 WHERE try = ? AND image_id = ?",
                [(number, image_id) for image_id in image_ids],
            )

    def record_moved(self, number: int, image_id: str, now: str) -> None:
        """Record that an image without a task has another id now, because its file was moved."""
        with writing(self._root) as db:
            db.execute(
                "UPDATE OR IGNORE own_finish_image SET image_id = ? WHERE try = ? AND image_id = ?",
                (now, number, image_id),
            )

    def sample_tasks(self, number: int) -> list[Task]:
        """Return the queried tasks of a try's acceptance sample, oldest first."""
        query = (
            "SELECT task_id, image_id, is_open, is_again FROM mirror_queried "
            f"WHERE image_id IN ({_SAMPLED}) ORDER BY 1"
        )
        return [
            Task(task_id, image_id, bool(is_open), bool(is_again))
            for task_id, image_id, is_open, is_again in select(self._root, query, number)
        ]

    def asked_tasks(self) -> set[int]:
        """Return the tasks of the acceptance sample that is being labeled now."""
        asking = self.asking()
        return {task.task_id for task in self.sample_tasks(asking.number)} if asking else set()

    def asked_images(self) -> frozenset[str]:
        """Return the images of the acceptance sample that is being labeled now."""
        asking = self.asking()
        return frozenset(self.sample(asking.number)) if asking else frozenset()

    def sample_annotations(self, number: int) -> dict[int, list[Annotation]]:
        """Return the annotations of a try's acceptance sample, grouped by task, oldest first."""
        return self._annotations(
            f"AND task_id IN (SELECT task_id FROM mirror_task WHERE image_id IN ({_SAMPLED})) "
            "ORDER BY task_id, annotation_id",
            number,
        )


def _marks(count: int) -> str:
    return ", ".join("?" * count)
