"""Find the tasks that people created in a project that we created: foreign tasks.

A task is ours if its data says how its image was queried, or if its image was queried or is in the
pool.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from backend.store.project_db import select

_IS_OURS = (
    "SELECT 1 FROM own_asked WHERE image_id = ?1 "
    "UNION ALL SELECT 1 FROM own_adopted WHERE image_id = ?1"
)
# Selects the annotations of the tasks that Tightloop created or was attached to.
NOT_FOREIGN = "task_id NOT IN (SELECT task_id FROM mirror_task WHERE is_foreign)"


class ForeignTasks:
    """Query the foreign tasks in the copy of Label Studio's data."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def foreign_tasks(self) -> set[int]:
        """Return the tasks that people created in a project that we created."""
        query = "SELECT task_id FROM mirror_task WHERE is_foreign"
        return {task_id for (task_id,) in select(self._root, query)}

    def n_foreign_open(self) -> int:
        """Count the foreign tasks that nobody has annotated yet."""
        # The plus sign lets SQLite use the index of the few foreign tasks.
        query = "SELECT count(*) FROM mirror_task WHERE is_foreign AND +is_open"
        return int(select(self._root, query)[0][0])

    def foreign_images(self) -> set[str]:
        """Return the image ids that people gave to foreign tasks."""
        query = "SELECT image_id FROM mirror_task WHERE is_foreign AND +image_id != ''"
        return {image_id for (image_id,) in select(self._root, query)}

    def copies(self) -> list[int]:
        """Return our open tasks for images that have an earlier or an annotated task."""
        query = (
            "SELECT task_id FROM mirror_task WHERE is_open AND NOT is_foreign AND address IS NULL "
            "AND task_id NOT IN (SELECT task_id FROM mirror_queried WHERE is_open) ORDER BY 1"
        )
        return [task_id for (task_id,) in select(self._root, query)]


def is_ours(db: sqlite3.Connection, image_id: str) -> bool:
    """Return whether an image was queried or adopted, so that any task with its id is ours."""
    return bool(image_id) and db.execute(_IS_OURS, (image_id,)).fetchone() is not None


def adopt_images(db: sqlite3.Connection, image_ids: Iterable[str]) -> bool:
    """Count the tasks of these images as ours from now on.

    Returns whether any of them is annotated.
    """
    db.executemany("INSERT OR IGNORE INTO own_adopted VALUES (?)", [(i,) for i in image_ids])
    adopted = db.execute(
        "UPDATE mirror_task SET is_foreign = 0 WHERE is_foreign "
        "AND image_id IN (SELECT image_id FROM own_adopted) RETURNING is_open"
    ).fetchall()
    return any(not is_open for (is_open,) in adopted)
