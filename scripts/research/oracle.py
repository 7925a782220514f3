"""An oracle that replaces Label Studio and answers the loop's questions from a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from backend.base.labeling import (
    Annotation,
    LabelConfig,
    NewTask,
    OpenTask,
    Prediction,
    ProjectCounts,
    Task,
    TaskReading,
)
from backend.labelstudio import task_data


@dataclass
class OracleProject:
    """A labeling project in memory, with the Label Studio rules that the loop relies on."""

    choices: tuple[str, ...]
    by_task: dict[int, NewTask] = field(default_factory=dict)
    answers: dict[int, list[Annotation]] = field(default_factory=dict)
    predictions: dict[int, dict[str, Prediction]] = field(default_factory=dict)
    asked_again: set[int] = field(default_factory=set)
    version: str = ""
    description: str = ""

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

    def tasks(self) -> list[Task]:
        return [
            Task(
                task_id=i,
                image_id=new.image_id,
                is_open=not self.answers.get(i),
                awaits_second_opinion=i in self.asked_again,
            )
            for i, new in self.by_task.items()
        ]

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:  # noqa: ARG002
        now = datetime.now(UTC).isoformat()
        for task in self.tasks():
            data = {**self.by_task[task.task_id].data, "image_id": task.image_id}
            answers = tuple(self.answers.get(task.task_id, ()))
            yield TaskReading(task, now, answers, task_data.read_asked(data))

    def open_tasks(self) -> list[OpenTask]:
        return [
            OpenTask(**vars(task), versions=frozenset(self.predictions[task.task_id]))
            for task in self.tasks()
            if task.is_open or task.awaits_second_opinion
        ]

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

    def import_tasks(self, new_tasks: Sequence[NewTask]) -> int:
        for new in new_tasks:
            task_id = max(self.by_task, default=0) + 1
            self.by_task[task_id] = new
            prediction = new.prediction
            self.predictions[task_id] = {prediction.model_version: prediction} if prediction else {}
            if new.label is not None:
                self.answer(task_id, new.label, annotator=None)
        return len(new_tasks)

    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int:
        for task_id, prediction in by_task_id.items():
            assert prediction.model_version not in self.predictions[task_id], "a second prediction"
            self.predictions[task_id][prediction.model_version] = prediction
        return len(by_task_id)

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
        said = {a.annotator for a in self.answers[task_id] if not a.was_skipped}
        assert len(said) == n_annotators - 1, "one more person is asked"
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
    ) -> None:
        """Submit an annotation as a person would."""
        number = sum(len(of_task) for of_task in self.answers.values()) + 1
        self.asked_again.discard(task_id)
        self.answers.setdefault(task_id, []).append(
            Annotation(
                annotation_id=number,
                task_id=task_id,
                image_id=self.by_task[task_id].image_id,
                annotator=annotator,
                label=label,
                was_skipped=was_skipped,
                updated_at=datetime.now(UTC).isoformat(),
                accepted_guess=accepted_guess,
            )
        )

    def labels(self) -> set[str | None]:
        """Return all labels given so far."""
        return {annotation.label for rows in self.answers.values() for annotation in rows}

    def change(self, task_id: int, label: str) -> None:
        """Edit a task's first annotation."""
        self.answers[task_id][0] = replace(self.answers[task_id][0], label=label)

    def answer_open_tasks(self, truth: Mapping[str, str]) -> int:
        """Answer every open task from the table; return how many there were."""
        open_tasks = self.open_tasks()
        for task in open_tasks:
            self.answer(task.task_id, truth[task.image_id])
        return len(open_tasks)
