"""Store everything about a project except its weights, in one SQLite file.

The copy of Label Studio's data may be deleted at any time, because it can be read again. The
following is recorded nowhere else: which images were queried and how, which labels were reviewed,
and which errors occurred.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from pydantic_core import from_json

from backend.base.labeling import (
    VALIDATION,
    Annotation,
    Asked,
    DeletedSkip,
    Task,
    TaskReading,
)
from backend.store import mirror
from backend.store.foreign_tasks import NOT_FOREIGN, adopt_images
from backend.store.mirror import Mirror, MirrorChanges
from backend.store.project_db import reading, select, writing
from backend.store.project_rows import (
    OPEN_IMAGES_KEPT,
    AnnotatorFigures,
    Facts,
    KeptError,
    OpenImage,
)

ERRORS_KEPT = 10
_FIGURES = TypeAdapter(AnnotatorFigures)
_VALIDATION_IMAGES = f"SELECT image_id FROM own_asked WHERE strategy = '{VALIDATION}'"

Row = np.ndarray[Any, np.dtype[np.float32]]  # (classes,)


class ProjectStore(Mirror):
    """The database in a project's folder: the copy of Label Studio's data and our own records.

    Every method opens its own connection, so no connection crosses a fork, and raises StoreError if
    the file cannot be read or written. Before the first write, every query returns an empty result.
    """

    # Facts

    def facts(self) -> Facts:
        """Return all facts in `Facts`."""
        with reading(self._root) as db:
            return _facts(db)

    def record(self, **facts: Any) -> None:
        """Record facts under their names in `Facts`."""
        with writing(self._root) as db:
            _record(db, facts)

    def record_failure(self, step: str, at: float, **facts: Any) -> None:
        """Record when a step failed so that the next attempt is delayed."""
        with writing(self._root) as db:
            _record(db, {**facts, "failed_at": {**_facts(db).failed_at, step: at}})

    def record_success(self, step: str, **facts: Any) -> None:
        """Record that a step succeeded, along with its results. Its errors are over."""
        with writing(self._root) as db:
            _record(db, facts)
            _record_success(db, step)

    # The copy of Label Studio's data

    def record_tasks(self, tasks: Sequence[TaskReading], now: float) -> None:
        """Record tasks that were just read, with their annotations and how they were queried."""
        with writing(self._root) as db:
            _write_asked(db, filter(None, (task.asked for task in tasks)), "OR IGNORE")
            _raise_revisions(db, mirror.write_tasks(db, tasks, now))

    def record_reading(self, began: float, *, is_full: bool) -> None:
        """Record that all changes up to `began` were read.

        After a full reading, delete all tasks that it did not find, except those that Label Studio
        could not list: their annotations stay as they were last read.
        """
        with writing(self._root) as db:
            before = _facts(db)
            found: dict[str, Any] = {"read_at": max(began, before.read_at)}
            if is_full:
                _raise_revisions(db, mirror.delete_unseen(db, began, before.unlisted_tasks))
                found["full_read_at"] = max(began, before.full_read_at)
            _record(db, found)
            _record_success(db, "read")  # reading works again, no matter which process has read

    def expect_older_tasks(self) -> None:
        """Let the next reading of each task win, even if it is older than what is recorded."""
        with writing(self._root) as db:
            db.execute("UPDATE mirror_task SET updated_at = ''")

    def forget_tasks(self, task_ids: Sequence[int], now: float) -> None:
        """Delete tasks that were deleted in Label Studio."""
        with writing(self._root) as db:
            _raise_revisions(db, mirror.delete_tasks(db, task_ids, now))

    def adopt_images(self, image_ids: Iterable[str]) -> None:
        """Count tasks of these pool images as ours, although the tasks' data does not say so."""
        with writing(self._root) as db:
            _raise_revisions(db, MirrorChanges(has_annotations=adopt_images(db, image_ids)))

    def record_learned(self, digests: Mapping[int, str], now: float, **facts: Any) -> None:
        """Record the annotations that a training run used (digests by annotation id), and its
        results.
        """
        with writing(self._root) as db:
            mirror.write_learned(db, digests, now)
            _record(db, facts)
            _record_success(db, "retrain", "refit")  # no annotation is left for a head to learn

    def label_counts(self) -> dict[str, int]:
        """Return how many annotations each label has, including labels that are not classes now.

        Annotations of foreign tasks are not counted.
        """
        query = (
            "SELECT label, count(*) FROM mirror_annotation "
            f"WHERE label IS NOT NULL AND answer IS NOT NULL AND {NOT_FOREIGN} "
            "GROUP BY label ORDER BY label"
        )
        return dict(select(self._root, query))

    def record_new_classes(self) -> None:
        """Record that annotations refer to other classes now, so that a head is fitted to them."""
        with writing(self._root) as db:
            _record(db, {"revision": _facts(db).revision + 1})

    # What was queried and how

    def record_asked(self, asked: Iterable[Asked]) -> None:
        """Record how images were queried; querying an image again replaces its record."""
        with writing(self._root) as db:
            _write_asked(db, asked, "OR REPLACE")

    def queried_images(self) -> set[str]:
        """Return all images that were ever queried, even if their tasks no longer exist."""
        return {image_id for (image_id,) in select(self._root, "SELECT image_id FROM own_asked")}

    def asked(self) -> dict[str, Asked]:
        """Return how each image was queried, without its probabilities."""
        query = "SELECT image_id, round, strategy, version, confidence FROM own_asked"
        return {row[0]: Asked(*row) for row in select(self._root, query)}

    def asked_probs(self, n_classes: int) -> dict[str, Row]:
        """Return the probabilities at the time of the query, for each image that has a task.

        A class that joined the project after an image was queried has the probability 0.
        """
        query = (
            "SELECT image_id, probs FROM own_asked WHERE length(probs) BETWEEN 1 AND ? "
            "AND length(probs) % 4 = 0 AND image_id IN (SELECT image_id FROM mirror_task)"
        )
        return _read_probs(select(self._root, query, 4 * n_classes), n_classes)

    def fold_probs(self, n_classes: int) -> dict[str, Row]:
        """Return out-of-sample probabilities of images that were queried without a model.

        A class that joined the project later has the probability 0.
        """
        query = (
            "SELECT image_id, probs FROM own_fold WHERE length(probs) BETWEEN 1 AND ? "
            "AND length(probs) % 4 = 0"
        )
        return _read_probs(select(self._root, query, 4 * n_classes), n_classes)

    def record_fold_probs(self, image_ids: Sequence[str], probs: Sequence[Row]) -> None:
        """Replace all out-of-sample probabilities; `probs` has one row per image."""
        blobs = [row.astype(np.float32).tobytes() for row in probs]
        self._replace_rows("own_fold", zip(image_ids, blobs, strict=True))

    # Validation by annotators

    def n_queried(self) -> int:
        """Count the tasks that ask for a label, including validation tasks."""
        query = "SELECT count(*) FROM mirror_queried JOIN own_asked USING (image_id)"
        return int(select(self._root, query)[0][0])

    def validation_tasks(self) -> list[Task]:
        """Return the validation tasks, oldest first."""
        query = (
            "SELECT task_id, image_id, is_open, is_again FROM mirror_queried "
            f"WHERE image_id IN ({_VALIDATION_IMAGES}) ORDER BY 1"
        )
        return [
            Task(task_id, image_id, bool(is_open), bool(is_again))
            for task_id, image_id, is_open, is_again in select(self._root, query)
        ]

    def validation_annotations(self) -> dict[int, list[Annotation]]:
        """Return the annotations of validation images, grouped by task, oldest first."""
        return self._annotations(
            "AND task_id IN (SELECT task_id FROM mirror_task "
            f"WHERE image_id IN ({_VALIDATION_IMAGES})) ORDER BY task_id, annotation_id"
        )

    def deleted_skips(self) -> list[DeletedSkip]:
        """Return the skips that were deleted in Label Studio so that images are served again."""
        query = "SELECT annotation_id, image_id, annotator FROM own_skip ORDER BY 1"
        return [DeletedSkip(*row) for row in select(self._root, query)]

    def record_deleted_skip(self, skip: DeletedSkip) -> None:
        """Record a skip before it is deleted in Label Studio."""
        with writing(self._root) as db:
            db.execute("INSERT OR REPLACE INTO own_skip VALUES (?, ?, ?)", astuple(skip))

    # Reviews

    def start_reviews(self, project_id: int) -> None:
        """Record the project in which labels are reviewed, and delete all earlier reviews."""
        with writing(self._root) as db:
            db.execute("DELETE FROM own_reviewed")
            _record(db, {"review_project": project_id})

    def reviewed(self) -> dict[str, str]:
        """Return the labels that reviews made ground truth, by image."""
        return dict(select(self._root, "SELECT image_id, label FROM own_reviewed"))

    def record_reviewed(self, image_id: str, label: str) -> None:
        """Record that a review made a label ground truth."""
        with writing(self._root) as db:
            db.execute("INSERT OR REPLACE INTO own_reviewed VALUES (?, ?)", (image_id, label))

    # What the dashboard shows

    def record_open_images(self, read_at: float, images: Sequence[OpenImage]) -> None:
        """Record the first OPEN_IMAGES_KEPT open images, in the order in which they are queried."""
        rows = enumerate(image.model_dump_json() for image in images[:OPEN_IMAGES_KEPT])
        self._replace_rows("mirror_open", rows, open_read_at=read_at)

    def open_images(self) -> list[OpenImage]:
        """Return the open images in their most recent order."""
        with reading(self._root) as db:
            rows = db.execute("SELECT image FROM mirror_open ORDER BY place")
            return [OpenImage.model_validate_json(image) for (image,) in rows]

    def record_annotators(self, people: Sequence[AnnotatorFigures]) -> None:
        """Record the statistics of all annotators."""
        rows = enumerate(json.dumps(asdict(figures)) for figures in people)
        self._replace_rows("own_annotator", rows)

    def annotators(self) -> list[AnnotatorFigures]:
        """Return the most recently recorded statistics of all annotators."""
        with reading(self._root) as db:
            rows = db.execute("SELECT figures FROM own_annotator ORDER BY place")
            return [_FIGURES.validate_json(figures) for (figures,) in rows]

    def record_error(
        self, where: str, message: str, at: datetime | None = None, *, step: str = ""
    ) -> None:
        """Record an error to show on the dashboard.

        The error is over once `step` has succeeded. An error without a step counts as over at once.
        """
        moment = (at or datetime.now(UTC)).isoformat(timespec="seconds")
        with writing(self._root) as db:
            db.execute("INSERT INTO own_error VALUES (?, ?, ?, ?)", (moment, where, message, step))
            db.execute(
                "DELETE FROM own_error WHERE rowid NOT IN "
                "(SELECT rowid FROM own_error ORDER BY rowid DESC LIMIT ?)",
                (ERRORS_KEPT,),
            )

    def errors(self) -> list[KeptError]:
        """Return the last errors, newest first."""
        query = (
            "SELECT at, \"where\", message, failing_step = '' FROM own_error ORDER BY rowid DESC"
        )
        return [
            KeptError(at, where, message, bool(is_over))
            for at, where, message, is_over in select(self._root, query)
        ]

    def _replace_rows(self, table: str, rows: Iterable[tuple[Any, Any]], **facts: Any) -> None:
        with writing(self._root) as db:
            db.execute(f"DELETE FROM {table}")
            db.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
            _record(db, facts)


def _read_probs(rows: Sequence[tuple[str, bytes]], n_classes: int) -> dict[str, Row]:
    """Return probabilities by image, with 0 for every class that a row does not have.

    Leaves out damaged rows, which contain NaN.
    """
    whole = b"".join(blob.ljust(4 * n_classes, b"\0") for _, blob in rows)
    probs = np.frombuffer(whole, np.float32).reshape(-1, n_classes)
    is_sound = np.isfinite(probs).all(axis=1)
    return {rows[row][0]: probs[row] for row in np.flatnonzero(is_sound)}


def _facts(db: sqlite3.Connection) -> Facts:
    rows = db.execute("SELECT name, value FROM own_fact").fetchall()
    return Facts.model_validate({name: from_json(value) for name, value in rows})


def _record(db: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
    unknown = facts.keys() - Facts.model_fields.keys()
    if unknown:
        raise TypeError(f"no such fact: {', '.join(sorted(unknown))}")
    rows = [(name, json.dumps(value)) for name, value in facts.items()]
    db.executemany("INSERT OR REPLACE INTO own_fact VALUES (?, ?)", rows)


def _record_success(db: sqlite3.Connection, *steps: str) -> None:
    """Record that steps succeeded, so that their errors are over and no attempt is delayed."""
    failed_at = _facts(db).failed_at
    if failed_at.keys() & {*steps}:
        _record(db, {"failed_at": {k: at for k, at in failed_at.items() if k not in steps}})
    for step in steps:
        db.execute("UPDATE own_error SET failing_step = '' WHERE failing_step = ?", (step,))


def _raise_revisions(db: sqlite3.Connection, changes: MirrorChanges) -> None:
    if changes.has_annotations:
        _record(db, {"revision": _facts(db).revision + 1})
    if changes.has_tasks:
        _record(db, {"tasks_revision": _facts(db).tasks_revision + 1})


def _write_asked(db: sqlite3.Connection, asked: Iterable[Asked], otherwise: str) -> None:
    rows = (
        (
            image.image_id,
            image.round,
            image.strategy,
            image.version,
            image.confidence,
            np.array(image.probs, np.float32).tobytes(),
        )
        for image in asked
    )
    db.executemany(f"INSERT {otherwise} INTO own_asked VALUES (?, ?, ?, ?, ?, ?)", rows)
