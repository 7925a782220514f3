"""Say what a labeling project holds and answers, as plain data that knows no Label Studio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pydantic import FiniteFloat

from backend.base.errors import LabelConfigError

DELETED = 0  # stands for all people who were deleted: their answers stay, their names do not


@dataclass(frozen=True)
class LabelConfig:
    """What we need of a project's label config."""

    from_name: str
    to_name: str
    image_key: str  # the key of the image in a task's data
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Annotation:
    """One person's answer to one task."""

    annotation_id: int
    task_id: int
    image_id: str  # "" in tasks that are not ours
    annotator: int | None  # None = the data set
    label: str | None  # None = skipped, or submitted empty
    was_skipped: bool
    updated_at: str
    is_ground_truth: bool = False
    took_guess: bool = False  # submitted as the model had pre-selected it
    seconds: FiniteFloat | None = None  # the task was open for

    @property
    def answer(self) -> str:
        """What it says, so that two readings can be compared."""
        said = "(skipped)" if self.was_skipped else self.label or "(empty)"
        return f"{said} (ground truth)" if self.is_ground_truth else said


@dataclass(frozen=True)
class Task:
    """One task, without its image."""

    task_id: int
    image_id: str  # "" in tasks that are not ours
    is_open: bool  # nobody has submitted or skipped it yet
    is_again: bool  # a person has submitted it, and another one is asked as well


@dataclass(frozen=True)
class Asked:
    """How an image was asked, fixed at that moment."""

    image_id: str
    round: int  # 0 = before there was a model
    strategy: str
    version: str  # "" = before there was a model
    confidence: float | None = None  # of the order at that moment; None = not recorded
    probs: tuple[float, ...] = ()  # (classes,), of the version that asked; () = none


@dataclass(frozen=True)
class TaskReading:
    """A task with all its annotations, as read in one request."""

    task: Task
    updated_at: str  # ISO 8601, by Label Studio's clock
    annotations: tuple[Annotation, ...]
    asked: Asked | None  # how the task's data says that it was asked


@dataclass(frozen=True)
class OpenTask(Task):
    """A task that people may be shown, with the model versions of its predictions."""

    versions: frozenset[str]


@dataclass(frozen=True)
class Prediction:
    """What a model version says about one image; `score` orders the tasks, low = ask first."""

    label: str
    probability: float
    score: float
    model_version: str


@dataclass(frozen=True)
class NewTask:
    """A task to be made; with a `label` it is imported as annotated."""

    image_id: str
    data: Mapping[str, Any]
    prediction: Prediction | None = None
    label: str | None = None


@dataclass(frozen=True)
class ProjectCounts:
    """How far a project is. Annotations do not count the skipped ones."""

    tasks: int
    annotations: int
    skipped: int
    open: int
    again: int = 0  # waiting for another person's answer


class LabelingProject(Protocol):
    """Where people label: Label Studio, or an oracle in its place."""

    def label_config(self) -> LabelConfig: ...
    def n_tasks(self) -> int: ...
    def tasks(self) -> list[Task]: ...
    def annotations(self) -> dict[int, list[Annotation]]: ...
    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]: ...
    def open_tasks(self) -> list[OpenTask]: ...
    def annotations_of(self, image_id: str) -> dict[int, list[Annotation]]: ...
    def add_ground_truth(self, task_id: int, label: str, annotator: int | None) -> None: ...
    def import_tasks(self, new_tasks: Sequence[NewTask]) -> int: ...
    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int: ...
    def model_version(self) -> str: ...
    def switch_model_version(self, version: str) -> None: ...
    def model_versions(self) -> list[str]: ...
    def delete_predictions(self, version: str) -> None: ...
    def delete_tasks(self, task_ids: Sequence[int]) -> None: ...
    def ask_again(self, task_id: int, n_people: int) -> None: ...
    def people(self) -> dict[int, str]: ...
    def describe(self, text: str) -> bool: ...


def match_classes(choices: Sequence[str], pool_classes: Sequence[str]) -> tuple[str, ...]:
    """Return the label config's spellings in the pool's order.

    Case, order and surrounding blanks are ignored. LabelConfigError names both lists if they differ
    otherwise.
    """
    spelling = {choice.strip().casefold(): choice for choice in choices}
    wanted = [name.strip().casefold() for name in pool_classes]
    if len(spelling) != len(choices) or sorted(spelling) != sorted(wanted):
        raise LabelConfigError(
            f"the label config's choices ({', '.join(choices)}) do not match the pool's classes "
            f"({', '.join(pool_classes)}): change the label config, or set POOL"
        )
    return tuple(spelling[name] for name in wanted)
