"""Replace Label Studio with projects in memory, whose tasks an oracle annotates."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

from backend.base.labeling import (
    IMPORTED_S,
    Annotation,
    LabelConfig,
    NewTask,
    Prediction,
    ProjectCounts,
    Task,
    TaskImage,
    TaskOrder,
    TaskReading,
)
from backend.labelstudio import task_data
from backend.labelstudio.rows import prediction_result

LONG_AGO = timedelta(days=1)


@dataclass
class OracleProject:
    """A labeling project in memory that follows the Label Studio rules that the loop relies on."""

    choices: tuple[str, ...]
    by_task: dict[int, NewTask] = field(default_factory=dict)
    answers: dict[int, list[Annotation]] = field(default_factory=dict)
    predictions: dict[int, dict[str, Prediction]] = field(default_factory=dict)
    asked_again: set[int] = field(default_factory=set)
    missing: dict[int, int] = field(default_factory=dict)  # annotators that these tasks lack
    n_given: int = 0
    version: str = ""
    is_by_confidence: bool = True
    description: str = ""
    given_ago: timedelta = timedelta()  # how long ago annotations are recorded to have been given

    def label_config(self) -> LabelConfig:
        return LabelConfig("label", "image", "image", self.choices)

    def counts(self) -> ProjectCounts:
        said = [a for of_task in self.answers.values() for a in of_task]
        return ProjectCounts(
            tasks=len(self.by_task),
            annotations=sum(not a.was_skipped for a in said),
            skipped=sum(a.was_skipped for a in said),
            open=sum(task.is_open for task in self.tasks()),
            awaiting_second_opinion=sum(task.awaits_second_opinion for task in self.tasks()),
        )

    def n_tasks(self) -> int:
        return len(self.by_task)

    def count_annotations(self) -> int:
        return sum(map(len, self.answers.values()))

    def tasks(self) -> list[Task]:
        return [
            Task(
                task_id=i,
                image_id=new.image_id,
                is_open=not self.answers.get(i),
                awaits_second_opinion=i in self.asked_again and bool(self._annotators(i)),
            )
            for i, new in self.by_task.items()
        ]

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:  # noqa: ARG002
        now = datetime.now(UTC).isoformat()
        for task in self.tasks():
            data = {**self.by_task[task.task_id].data, "image_id": task.image_id}
            answers = tuple(self.answers.get(task.task_id, ()))
            yield TaskReading(task, now, answers, task_data.read_asked(data))

    def open_tasks(
        self, skipped: Set[int] = frozenset(), among: Collection[int] | None = None
    ) -> list[Task]:
        return [
            task
            for task in self.tasks()
            if (task.is_open or task.awaits_second_opinion or task.task_id in skipped)
            and (among is None or task.task_id in among)
        ]

    def predicted_by(self, version: str, task_ids: Collection[int]) -> set[int]:
        return {task_id for task_id in task_ids if version in self.predictions[task_id]}

    def annotations(self) -> dict[int, list[Annotation]]:
        return {i: list(self.answers.get(i, ())) for i in self.by_task}

    def annotations_of(self, image_id: str) -> dict[int, list[Annotation]]:
        every = self.annotations()
        return {i: every[i] for i, new in self.by_task.items() if new.image_id == image_id}

    def add_ground_truth(self, task_id: int, label: str, annotator: int | None) -> None:
        self.answer(task_id, label, annotator=annotator)
        *others, truth = self.answers[task_id]
        self.answers[task_id] = [
            *(replace(other, is_ground_truth=False) for other in others),
            replace(truth, is_ground_truth=True),
        ]

    def annotate(self, task_id: int, label: str, annotator: int) -> bool:
        is_known = task_id in self.by_task
        if is_known:
            self.answer(task_id, label, annotator=annotator, seconds=IMPORTED_S)
        return is_known

    def delete_annotation(self, annotation_id: int) -> None:
        for task_id, of_task in self.answers.items():
            self.answers[task_id] = [a for a in of_task if a.annotation_id != annotation_id]

    def upload(self, images: Mapping[str, TaskImage]) -> dict[str, str]:
        return {image_id: f"/data/upload/{image_id}" for image_id in images}

    def import_tasks(self, new_tasks: Sequence[NewTask]) -> int:
        for new in new_tasks:
            task_id = max(self.by_task, default=0) + 1
            self.by_task[task_id] = new
            prediction = new.prediction
            self.predictions[task_id] = {prediction.model_version: prediction} if prediction else {}
            if new.label is not None:
                self.answer(task_id, new.label, annotator=None)
            for annotator, label in new.labels_by.items():
                self.annotate(task_id, label, annotator)
        return len(new_tasks)

    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int:
        for task_id, prediction in by_task_id.items():
            assert prediction.model_version not in self.predictions[task_id], (
                "Label Studio would keep both predictions"
            )
            self.predictions[task_id][prediction.model_version] = prediction
        return len(by_task_id)

    def task_order(self) -> TaskOrder:
        return TaskOrder(is_by_confidence=self.is_by_confidence, model_version=self.version)

    def model_version(self) -> str:
        return self.version

    def switch_model_version(self, version: str) -> None:
        assert version in self.model_versions(), (
            "Label Studio refuses a version without predictions"
        )
        self.version = version

    def model_versions(self) -> list[str]:
        return sorted({v for of_task in self.predictions.values() for v in of_task})

    def delete_predictions(self, version: str) -> None:
        for of_task in self.predictions.values():
            of_task.pop(version, None)

    def delete_tasks(self, task_ids: Sequence[int]) -> None:
        for task_id in task_ids:
            del self.by_task[task_id]
            self.answers.pop(task_id, None)

    def reopen(self, task_id: int, n_annotators: int) -> None:
        self.missing[task_id] = n_annotators - len(self._annotators(task_id))
        assert self.missing[task_id] > 0, "at least one more annotator is asked"
        self.asked_again.add(task_id)

    def annotator_names(self) -> dict[int, str]:
        return {}

    def set_description(self, text: str) -> bool:
        is_new = text != self.description
        self.description = text
        return is_new

    def answer(
        self,
        task_id: int,
        label: str | None,
        *,
        annotator: int | None = 1,
        was_skipped: bool = False,
        accepted_guess: bool = False,
        seconds: float | None = None,
    ) -> None:
        """Submit an annotation as a person would."""
        self.n_given += 1
        if not was_skipped:
            self.missing[task_id] = self.missing.get(task_id, 0) - 1
            if self.missing[task_id] <= 0:
                self.asked_again.discard(task_id)
        self.answers.setdefault(task_id, []).append(
            Annotation(
                annotation_id=self.n_given,
                task_id=task_id,
                image_id=self.by_task[task_id].image_id,
                annotator=annotator,
                label=label,
                was_skipped=was_skipped,
                updated_at=(datetime.now(UTC) - self.given_ago).isoformat(),
                accepted_guess=accepted_guess,
                seconds=seconds,
            )
        )

    def _annotators(self, task_id: int) -> set[int | None]:
        return {a.annotator for a in self.answers.get(task_id, ()) if not a.was_skipped}

    def labels(self) -> set[str | None]:
        """Return all labels given so far."""
        return {annotation.label for rows in self.answers.values() for annotation in rows}

    def change(self, task_id: int, label: str) -> None:
        """Edit a task's first annotation."""
        self.answers[task_id][0] = replace(self.answers[task_id][0], label=label)

    def answer_open_tasks(self, truth: Mapping[str, str]) -> int:
        """Annotate every open task with its true label; return their number."""
        open_tasks = self.open_tasks()
        for task in open_tasks:
            self.answer(task.task_id, truth[task.image_id])
        return len(open_tasks)


@dataclass
class CountingProject(OracleProject):
    """An oracle's project that counts the data that Label Studio would send.

    `truth` maps each task to its true label; `changed_at` lists all tasks, the most recently
    changed last.
    """

    truth: dict[int, str] = field(default_factory=dict)
    changed_at: dict[int, datetime] = field(default_factory=dict)
    open_ids: set[int] = field(default_factory=set)
    n_annotations: int = 0
    tasks_read: int = 0
    bytes_read: int = 0

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        def is_changed(task_id: int) -> bool:
            return changed_after is None or self.changed_at[task_id] > changed_after

        for task_id in sorted(takewhile(is_changed, reversed(self.changed_at))):
            self.tasks_read += 1
            yield self._send(task_id)

    def open_tasks(
        self,
        skipped: Set[int] = frozenset(),  # noqa: ARG002
        among: Collection[int] | None = None,  # noqa: ARG002
    ) -> list[Task]:
        return [self._send(task_id).task for task_id in sorted(self.open_ids)]

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
        """Annotate an open task with its true label; return the task's id."""
        task_id = min(self.open_ids)
        self.open_ids.remove(task_id)
        self.n_annotations += 1
        self.answers[task_id].append(
            make_annotation(self.n_annotations, task_id, 1, self.truth[task_id])
        )
        self._change(task_id, datetime.now(UTC))
        return task_id

    def age(self, task_id: int) -> None:
        """Backdate a task's last change, so that the next reading does not find the task."""
        self._change(task_id, datetime.now(UTC) - LONG_AGO)

    def _change(self, task_id: int, moment: datetime) -> None:
        self.changed_at.pop(task_id)
        self.changed_at[task_id] = moment

    def _send(self, task_id: int) -> TaskReading:
        """Return a task, and count the bytes that Label Studio would send for it."""
        new, annotations = self.by_task[task_id], tuple(self.answers[task_id])
        updated_at = self.changed_at[task_id].isoformat()
        sent = {
            "id": task_id,
            "data": new.data,
            "total_annotations": len(annotations),
            "cancelled_annotations": 0,
            "is_labeled": bool(annotations),
            "updated_at": updated_at,
            "annotations": [_sent(self.label_config(), a) for a in annotations],
        }
        self.bytes_read += len(json.dumps(sent))
        return TaskReading(
            Task(task_id, new.image_id, is_open=not annotations, awaits_second_opinion=False),
            updated_at,
            annotations,
            task_data.read_asked(new.data),
        )


def make_annotation(annotation_id: int, task_id: int, annotator: int, label: str) -> Annotation:
    """Return an annotation of a task. The number in the image's id is the task's id minus one."""
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
