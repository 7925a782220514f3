"""Record what became of each annotation when labels were last learned, and count the outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backend.store.project_db import select, writing

_WRITE = """
    INSERT INTO own_outcome VALUES (?, ?, ?) ON CONFLICT (annotation_id)
    DO UPDATE SET answer = excluded.answer, outcome = excluded.outcome
    WHERE answer != excluded.answer OR outcome != excluded.outcome
"""
_DELETE_GONE = """
    DELETE FROM own_outcome WHERE annotation_id NOT IN
    (SELECT annotation_id FROM mirror_annotation WHERE answer IS NOT NULL)
"""
# An annotation that was changed since its outcome was recorded has no outcome.
_COUNT = """
    SELECT CASE WHEN a.was_skipped THEN ?
                WHEN a.task_id IN (SELECT task_id FROM mirror_task WHERE is_foreign) THEN ?
                WHEN o.answer = a.answer THEN o.outcome ELSE ? END AS outcome, count(*)
    FROM mirror_annotation AS a LEFT JOIN own_outcome AS o USING (annotation_id)
    WHERE a.answer IS NOT NULL GROUP BY 1
"""


class AnnotationOutcomes:
    """The outcomes of a project's annotations, which are recorded again with every new version.

    Methods raise StoreError if the file cannot be read or written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def record(self, outcomes: Mapping[int, tuple[str, str]]) -> None:
        """Record the digest and the outcome of annotations, by annotation id.

        Other annotations keep their outcomes until they are deleted.
        """
        with writing(self._root) as db:
            db.executemany(_WRITE, [(i, *outcome) for i, outcome in outcomes.items()])
            db.execute(_DELETE_GONE)

    def count(self, *, skipped: str, foreign: str, new: str) -> dict[str, int]:
        """Count all annotations in Label Studio, including skips, by outcome.

        Skips, annotations of foreign tasks, and annotations without an outcome are counted under
        the given names. Returns {} if no outcome was ever recorded.
        """
        if not select(self._root, "SELECT 1 FROM own_outcome LIMIT 1"):
            return {}
        return dict(select(self._root, _COUNT, skipped, foreign, new))
