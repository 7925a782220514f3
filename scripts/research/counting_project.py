"""A stand-in for Label Studio that counts the data it would send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from backend.base.labeling import Annotation, LabelConfig, NewTask, OpenTask, Task, TaskReading
from backend.labelstudio import task_data
from backend.labelstudio.rows import prediction_result
from scripts.research.oracle import OracleProject

LONG_AGO = timedelta(days=1)


@dataclass
class CountingProject(OracleProject):
    """An oracle that sends only what is asked for, as Label Studio does, and counts it.

    `truth` has each task's true label; `changed_at` lists all tasks, the last changed one last.
    """

    truth: dict[int, str] = field(default_factory=dict)
    changed_at: dict[int, datetime] = field(default_factory=dict)
    open_ids: set[int] = field(default_factory=set)
    n_annotations: int = 0
    tasks_read: int = 0
    bytes_read: int = 0

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        changed = []
        for task_id in reversed(self.changed_at):
            if changed_after is not None and self.changed_at[task_id] <= changed_after:
                break
            changed.append(task_id)
        for task_id in sorted(changed):
            reading = self._reading(task_id)
            self.tasks_read += 1
            self._send(reading)
            yield reading

    def open_tasks(self) -> list[OpenTask]:
        found = []
        for task_id in sorted(self.open_ids):
            reading = self._reading(task_id)
            self._send(reading)
            versions = frozenset(self.predictions[task_id])
            found.append(OpenTask(**vars(reading.task), versions=versions))
        return found

    def add(self, task_id: int, new: NewTask, annotations: list[Annotation], truth: str) -> None:
        """Add a task that was last changed long ago."""
        self.by_task[task_id] = new
        self.answers[task_id] = annotations
        self.truth[task_id] = truth
        self.changed_at[task_id] = datetime.now(UTC) - LONG_AGO
        if not annotations:
            self.open_ids.add(task_id)
            self.predictions[task_id] = {}
        self.n_annotations += len(annotations)

    def annotate_next(self) -> int:
        """Give an open task its true label, as a person would, and return which task."""
        task_id = min(self.open_ids)
        self.open_ids.remove(task_id)
        self.n_annotations += 1
        self.answers[task_id].append(
            make_annotation(self.n_annotations, task_id, 1, self.truth[task_id])
        )
        self._change(task_id, datetime.now(UTC))
        return task_id

    def age(self, task_id: int) -> None:
        """Date a task's change back, so that the next reading does not find it."""
        self._change(task_id, datetime.now(UTC) - LONG_AGO)

    def _change(self, task_id: int, moment: datetime) -> None:
        self.changed_at.pop(task_id)
        self.changed_at[task_id] = moment

    def _reading(self, task_id: int) -> TaskReading:
        new = self.by_task[task_id]
        annotations = tuple(self.answers[task_id])
        return TaskReading(
            Task(task_id, new.image_id, is_open=not annotations, awaits_second_opinion=False),
            self.changed_at[task_id].isoformat(),
            annotations,
            task_data.read_asked(new.data),
        )

    def _send(self, reading: TaskReading) -> None:
        config = self.label_config()
        sent = {
            "id": reading.task.task_id,
            "data": self.by_task[reading.task.task_id].data,
            "total_annotations": len(reading.annotations),
            "cancelled_annotations": 0,
            "is_labeled": not reading.task.is_open,
            "updated_at": reading.updated_at,
            "annotations": [_sent(config, a) for a in reading.annotations],
        }
        self.bytes_read += len(json.dumps(sent))


def make_annotation(annotation_id: int, task_id: int, annotator: int, label: str) -> Annotation:
    """Return an annotation of a task, whose image has the number before the task's."""
    return Annotation(
        annotation_id=annotation_id,
        task_id=task_id,
        image_id=f"i{task_id - 1}",
        annotator=annotator,
        label=label,
        was_skipped=False,
        updated_at=datetime.now(UTC).isoformat(),
        seconds=1.5,
    )


def _sent(config: LabelConfig, annotation: Annotation) -> dict[str, Any]:
    """Return an annotation as Label Studio sends it."""
    return {
        "id": annotation.annotation_id,
        "result": prediction_result(config, annotation.label or config.choices[0]),
        "completed_by": annotation.annotator,
        "updated_at": annotation.updated_at,
        "was_cancelled": annotation.was_skipped,
        "ground_truth": annotation.is_ground_truth,
        "lead_time": annotation.seconds,
    }
