"""Mirror a project's tasks and annotations, and find what changed since the last training run.

Readings may overlap. If a task is read twice, the reading with the later `updated_at` (from Label
Studio's clock) wins. An `updated_at` in the future is recorded as a time shortly before the
reading, and one that was recorded earlier never wins: that clock was set back, and may be set right
again. A full reading replaces everything that was recorded before it.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backend.base.labeling import (
    CLOCK_SKEW_S,
    DELETED,
    IMPORTED_S,
    OTHER_CONTROL,
    Annotation,
    ListedTask,
    ProjectCounts,
    Task,
    TaskReading,
)
from backend.store.foreign_tasks import NOT_FOREIGN, ForeignTasks, is_ours
from backend.store.project_db import select

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"  # of Label Studio
_WRITE_TASK = """
    INSERT INTO mirror_task VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (task_id) DO UPDATE SET
        image_id = excluded.image_id, is_open = excluded.is_open, is_again = excluded.is_again,
        updated_at = excluded.updated_at, read_at = max(read_at, excluded.read_at),
        address = excluded.address, is_foreign = excluded.is_foreign
    WHERE excluded.updated_at >= updated_at OR updated_at > ?
    RETURNING task_id
"""
# Selects the annotations that show who is labeling now, and how fast.
_MADE_NOW = f"AND NOT is_ground_truth AND seconds IS NOT {IMPORTED_S}"
_IMPOSSIBLE = "9e999"  # IMPOSSIBLE_S, which SQLite reads as infinity
_RECORD_READ = "UPDATE mirror_task SET read_at = max(read_at, ?) WHERE task_id = ?"
_WRITE_ANNOTATION = """
    INSERT INTO mirror_annotation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)
    ON CONFLICT (annotation_id) DO UPDATE SET
        task_id = excluded.task_id, image_id = excluded.image_id,
        annotator = excluded.annotator, label = excluded.label,
        was_skipped = excluded.was_skipped, updated_at = excluded.updated_at,
        is_ground_truth = excluded.is_ground_truth, took_guess = excluded.took_guess,
        seconds = excluded.seconds, answer = excluded.answer,
        changed_at = CASE WHEN excluded.answer IS answer THEN changed_at
                          ELSE excluded.changed_at END
"""


@dataclass
class MirrorChanges:
    """What a reading has changed in the copy of Label Studio's data."""

    has_annotations: bool = False  # whether any annotation's digest has changed
    has_tasks: bool = False  # whether an attached project's tasks or their addresses have changed


class Mirror(ForeignTasks):
    """Query the copy of Label Studio's data in the project's database.

    In a project that we created, all our tasks count as queried. A foreign task, which a person
    created there, does not count: its image is not in the pool. Neither does an open copy of
    another task. In an attached project, a task counts as queried if Tightloop has asked people to
    label it, or if people have annotated or skipped it.
    """

    def n_tasks(self) -> int:
        """Count all tasks, queried or not, including those that Label Studio cannot list."""
        query = (
            "SELECT count(*) FROM (SELECT task_id FROM mirror_task UNION SELECT json_each.value "
            "FROM own_fact, json_each(own_fact.value) WHERE own_fact.name = 'unlisted_tasks')"
        )
        return int(select(self._root, query)[0][0])

    def impossible_times(self) -> list[tuple[int, int]]:
        """Return the task and the id of each annotation whose lead time Label Studio cannot handle,
        in order.
        """
        query = (
            f"SELECT task_id, annotation_id FROM mirror_annotation WHERE seconds = {_IMPOSSIBLE} "
            "AND answer IS NOT NULL ORDER BY 1, 2"
        )
        return [(task_id, annotation_id) for task_id, annotation_id in select(self._root, query)]

    def n_open(self) -> int:
        """Count the queried tasks that nobody has annotated yet."""
        return int(select(self._root, "SELECT count(*) FROM mirror_queried WHERE is_open")[0][0])

    def counts(self) -> ProjectCounts:
        """Count queried tasks and all annotations."""
        [counts] = select(
            self._root,
            "SELECT tasks, annotations, skipped, open, again FROM "
            "(SELECT count(*) AS tasks, coalesce(sum(is_open), 0) AS open, "
            "coalesce(sum(is_again), 0) AS again FROM mirror_queried), "
            "(SELECT coalesce(sum(NOT was_skipped), 0) AS annotations, "
            "coalesce(sum(was_skipped), 0) AS skipped "
            "FROM mirror_annotation WHERE answer IS NOT NULL)",
        )
        return ProjectCounts(*counts)

    def tasks(self) -> list[Task]:
        """Return the queried tasks, oldest first."""
        query = "SELECT task_id, image_id, is_open, is_again FROM mirror_queried ORDER BY 1"
        return [
            Task(task_id, image_id, bool(is_open), bool(is_again))
            for task_id, image_id, is_open, is_again in select(self._root, query)
        ]

    def listed_tasks(self) -> list[ListedTask]:
        """Return all tasks of an attached project with the addresses of their images."""
        query = "SELECT task_id, address FROM mirror_task WHERE address IS NOT NULL ORDER BY 1"
        return [ListedTask(*row) for row in select(self._root, query)]

    def annotated_images(self) -> set[str]:
        """Return the ids of all images that have an annotation."""
        query = "SELECT DISTINCT image_id FROM mirror_annotation WHERE answer IS NOT NULL"
        return {image_id for (image_id,) in select(self._root, query)}

    def annotations(self) -> dict[int, list[Annotation]]:
        """Return all annotations by task, oldest first."""
        return self._annotations("ORDER BY task_id, annotation_id")

    def recent_annotations(self, count: int) -> dict[int, list[Annotation]]:
        """Return the latest annotations by people, except ground truths and imports."""
        return self._annotations(
            f"AND annotator != {DELETED} {_MADE_NOW} ORDER BY updated_at DESC LIMIT ?", count
        )

    def last_annotated(self) -> dict[int, float]:
        """Return the time of each person's latest annotation, in seconds since the epoch.

        Ground truth annotations and imports are ignored.
        """
        rows = select(
            self._root,
            "SELECT annotator, max(updated_at) FROM mirror_annotation WHERE answer IS NOT NULL "
            f"AND annotator != {DELETED} {_MADE_NOW} GROUP BY annotator",
        )
        return {person: datetime.fromisoformat(at).timestamp() for person, at in rows}

    def annotation_times(self, count: int) -> list[float]:
        """Return when people made the latest annotations, in seconds since the epoch, in order.

        Skips, ground truths, imports and annotations of foreign tasks are ignored.
        """
        rows = select(
            self._root,
            "SELECT updated_at FROM mirror_annotation WHERE label IS NOT NULL "
            f"AND answer IS NOT NULL AND annotator IS NOT NULL {_MADE_NOW} AND {NOT_FOREIGN} "
            "ORDER BY updated_at DESC LIMIT ?",
            count,
        )
        return sorted(datetime.fromisoformat(at).timestamp() for (at,) in rows)

    def _annotations(self, rest: str, *parameters: Any) -> dict[int, list[Annotation]]:
        """Return the annotations that the rest of the query selects, by task."""
        rows = select(
            self._root,
            "SELECT annotation_id, task_id, image_id, annotator, label, was_skipped, updated_at, "
            "is_ground_truth, took_guess, seconds, answer FROM mirror_annotation "
            f"WHERE answer IS NOT NULL {rest}",
            *parameters,
        )
        found: dict[int, list[Annotation]] = defaultdict(list)
        for (
            id_, task_id, image_id, annotator, label, skipped, at, truth, took, seconds, answer
        ) in rows:  # fmt: skip
            found[task_id].append(
                Annotation(
                    annotation_id=id_,
                    task_id=task_id,
                    image_id=image_id,
                    annotator=annotator,
                    label=label,
                    was_skipped=bool(skipped),
                    updated_at=at,
                    is_ground_truth=bool(truth),
                    accepted_guess=bool(took),
                    seconds=seconds,
                    is_of_other_control=label is None and answer.startswith(OTHER_CONTROL),
                )
            )
        return dict(found)

    def new_annotations(self) -> tuple[int, float | None]:
        """Count annotations that were added, changed or deleted since the last training run,
        and return when the first change was noticed. Foreign tasks are ignored.
        """
        # The condition must match the index's condition; otherwise, SQLite scans the whole table.
        query = "count(*), min(changed_at) FROM mirror_annotation WHERE answer IS NOT learned"
        [(n_new, first_at)] = select(self._root, f"SELECT {query} AND {NOT_FOREIGN}")
        return n_new, first_at

    def new_images(self) -> set[str]:
        """Return the ids of images whose annotations changed since the last training run."""
        query = "SELECT DISTINCT image_id FROM mirror_annotation WHERE answer IS NOT learned"
        return {image_id for (image_id,) in select(self._root, query)}


def write_tasks(db: sqlite3.Connection, tasks: Iterable[TaskReading], now: float) -> MirrorChanges:
    """Record tasks that were just read; return what has changed."""
    changes = MirrorChanges()
    query = "SELECT address FROM mirror_task WHERE task_id = ?"
    recent, future = (
        datetime.fromtimestamp(now + ahead_s, UTC).strftime(TIME_FORMAT)
        for ahead_s in (-CLOCK_SKEW_S, CLOCK_SKEW_S)
    )
    for found in tasks:
        task = found.task
        is_foreign = found.is_unmarked and not is_ours(db, task.image_id)
        values = (
            task.task_id,
            task.image_id,
            task.is_open,
            task.awaits_second_opinion,
            recent if found.updated_at > future else found.updated_at,
            now,
            found.address,
            is_foreign,
            future,
        )
        before = db.execute(query, (task.task_id,)).fetchone()
        if db.execute(_WRITE_TASK, values).fetchone():
            changes.has_tasks |= found.address is not None and before != (found.address,)
            is_changed = _write_annotations(db, task.task_id, found.annotations, now)
            changes.has_annotations |= is_changed and not is_foreign
        else:  # another process has read a later state of the task
            db.execute(_RECORD_READ, (now, task.task_id))
    return changes


def delete_unseen(
    db: sqlite3.Connection, moment: float, kept: Collection[int] = ()
) -> MirrorChanges:
    """Delete tasks that were not read since `moment`, except `kept`; return what has changed."""
    rows = db.execute("SELECT task_id FROM mirror_task WHERE read_at < ?", (moment,)).fetchall()
    return delete_tasks(db, [task_id for (task_id,) in rows if task_id not in kept], moment)


def delete_tasks(db: sqlite3.Connection, task_ids: Sequence[int], now: float) -> MirrorChanges:
    """Delete tasks with their annotations; return what has changed."""
    changes = MirrorChanges()
    query = "DELETE FROM mirror_task WHERE task_id = ? RETURNING address, is_foreign"
    for task_id in task_ids:
        address, is_foreign = db.execute(query, (task_id,)).fetchone() or (None, 0)
        changes.has_tasks |= address is not None
        if is_foreign:
            db.execute("DELETE FROM mirror_annotation WHERE task_id = ?", (task_id,))
        else:
            changes.has_annotations |= _write_annotations(db, task_id, (), now)
    return changes


def write_learned(db: sqlite3.Connection, digests: Mapping[int, str], now: float) -> None:
    """Record which annotations a training run used; `digests` are by annotation id.

    An annotation that has been deleted since then counts as new, because its deletion is a change.
    """
    db.execute("CREATE TEMP TABLE learned (annotation_id INTEGER PRIMARY KEY, answer TEXT)")
    db.executemany("INSERT INTO learned VALUES (?, ?)", digests.items())
    db.execute(
        "UPDATE mirror_annotation SET learned = (SELECT l.answer FROM learned l "
        "WHERE l.annotation_id = mirror_annotation.annotation_id)"
    )
    db.execute(
        "INSERT INTO mirror_annotation SELECT annotation_id, 0, '', NULL, NULL, 0, '', 0, 0, NULL, "
        "NULL, answer, ? FROM learned WHERE annotation_id NOT IN "
        "(SELECT annotation_id FROM mirror_annotation)",
        (now,),
    )
    db.execute("DELETE FROM mirror_annotation WHERE answer IS NULL AND learned IS NULL")
    db.execute("DROP TABLE learned")


def _write_annotations(
    db: sqlite3.Connection, task_id: int, annotations: Sequence[Annotation], now: float
) -> bool:
    """Replace a task's annotations; return whether any digest changed."""
    query = "SELECT annotation_id, answer FROM mirror_annotation WHERE task_id = ?"
    before = {i: answer for i, answer in db.execute(query, (task_id,)) if answer is not None}
    after = {a.annotation_id: a.digest for a in annotations}
    gone = [(now, annotation_id) for annotation_id in before.keys() - after.keys()]
    db.executemany(
        "UPDATE mirror_annotation SET answer = NULL, changed_at = ? WHERE annotation_id = ?", gone
    )
    db.execute(
        "DELETE FROM mirror_annotation WHERE task_id = ? AND answer IS NULL AND learned IS NULL",
        (task_id,),
    )
    db.executemany(
        _WRITE_ANNOTATION,
        [
            (
                a.annotation_id,
                task_id,
                a.image_id,
                a.annotator,
                a.label,
                a.was_skipped,
                a.updated_at,
                a.is_ground_truth,
                a.accepted_guess,
                a.seconds,
                a.digest,
                now,
            )
            for a in annotations
        ],
    )
    return before != after
