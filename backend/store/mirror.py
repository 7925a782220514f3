"""Mirror a project's tasks and annotations, and find those that changed since the last training.

Readings may overlap: of two readings of a task, the later by Label Studio's clock wins.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from backend.base.labeling import Annotation, ProjectCounts, Task, TaskReading

_WRITE_TASK = """
    INSERT INTO mirror_task VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (task_id) DO UPDATE SET
        image_id = excluded.image_id, is_open = excluded.is_open, is_again = excluded.is_again,
        updated_at = excluded.updated_at, read_at = max(read_at, excluded.read_at)
"""
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


def write_tasks(db: sqlite3.Connection, tasks: Iterable[TaskReading], now: float) -> bool:
    """Record tasks as just read; return whether any annotation changed."""
    is_changed = False
    for found in tasks:
        task = found.task
        row = db.execute(
            "SELECT updated_at FROM mirror_task WHERE task_id = ?", (task.task_id,)
        ).fetchone()
        if row is not None and row[0] > found.updated_at:  # another process read it later
            db.execute(
                "UPDATE mirror_task SET read_at = max(read_at, ?) WHERE task_id = ?",
                (now, task.task_id),
            )
            continue
        db.execute(
            _WRITE_TASK,
            (
                task.task_id,
                task.image_id,
                task.is_open,
                task.awaits_second_opinion,
                found.updated_at,
                now,
            ),
        )
        is_changed |= _write_annotations(db, task.task_id, found.annotations, now)
    return is_changed


def delete_tasks_unseen_since(db: sqlite3.Connection, moment: float) -> bool:
    """Delete tasks not read since then; return whether any annotation was deleted with them."""
    rows = db.execute("SELECT task_id FROM mirror_task WHERE read_at < ?", (moment,))
    return delete_tasks(db, [task_id for (task_id,) in rows.fetchall()], moment)


def delete_tasks(db: sqlite3.Connection, task_ids: Sequence[int], now: float) -> bool:
    """Delete tasks with their annotations; return whether there were any annotations."""
    is_changed = False
    for task_id in task_ids:
        db.execute("DELETE FROM mirror_task WHERE task_id = ?", (task_id,))
        is_changed |= _write_annotations(db, task_id, (), now)
    return is_changed


def count_tasks(db: sqlite3.Connection) -> int:
    """Count all tasks."""
    row = db.execute("SELECT count(*) FROM mirror_task").fetchone()
    return int(row[0])


def count_open(db: sqlite3.Connection) -> int:
    """Count the tasks that no one has annotated."""
    row = db.execute("SELECT count(*) FROM mirror_task WHERE is_open").fetchone()
    return int(row[0])


def count(db: sqlite3.Connection) -> ProjectCounts:
    """Count tasks and annotations."""
    tasks, n_open, again = db.execute(
        "SELECT count(*), coalesce(sum(is_open), 0), coalesce(sum(is_again), 0) FROM mirror_task"
    ).fetchone()
    annotations, skipped = db.execute(
        "SELECT coalesce(sum(NOT was_skipped), 0), coalesce(sum(was_skipped), 0) "
        "FROM mirror_annotation WHERE answer IS NOT NULL"
    ).fetchone()
    return ProjectCounts(tasks, annotations, skipped, n_open, again)


def read_tasks(db: sqlite3.Connection) -> list[Task]:
    """Return all tasks, oldest first."""
    rows = db.execute("SELECT task_id, image_id, is_open, is_again FROM mirror_task ORDER BY 1")
    return [Task(i, image_id, bool(is_open), bool(again)) for i, image_id, is_open, again in rows]


def read_annotations(db: sqlite3.Connection) -> dict[int, list[Annotation]]:
    """Return all annotations by task, oldest first."""
    rows = db.execute(
        "SELECT annotation_id, task_id, image_id, annotator, label, was_skipped, updated_at, "
        "is_ground_truth, took_guess, seconds FROM mirror_annotation "
        "WHERE answer IS NOT NULL ORDER BY task_id, annotation_id"
    )
    found: dict[int, list[Annotation]] = defaultdict(list)
    for id_, task_id, image_id, annotator, label, skipped, at, truth, took, seconds in rows:
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
            )
        )
    return dict(found)


def count_new(db: sqlite3.Connection) -> tuple[int, float | None]:
    """Count annotations that differ from what was learned; return when the first was noticed."""
    # Must match the index's condition, or SQLite would scan the whole table.
    n_new, first_at = db.execute(
        "SELECT count(*), min(changed_at) FROM mirror_annotation WHERE answer IS NOT learned"
    ).fetchone()
    return n_new, first_at


def read_new_images(db: sqlite3.Connection) -> set[str]:
    """Return the images with annotations that differ from what was learned."""
    query = "SELECT DISTINCT image_id FROM mirror_annotation WHERE answer IS NOT learned"
    return {image_id for (image_id,) in db.execute(query)}


def write_learned(db: sqlite3.Connection, digests: Mapping[int, str], now: float) -> None:
    """Record what was learned: annotation id -> digest.

    An annotation deleted since counts as new, because a deletion is a change as well.
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
