"""Describe a labeling project as plain data, independent of Label Studio."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from backend.base.classes import fold
from backend.base.errors import LabelConfigError

DELETED = 0  # represents all deleted accounts, whose annotations are kept without their names
VALIDATION = "validation"  # recorded instead of a strategy for validation images
ACCEPTANCE = "acceptance"  # recorded instead of a strategy for images of an acceptance sample
IMPORTED_S = 0.0  # recorded instead of the seconds that a person took for an imported annotation
IMPOSSIBLE_S = math.inf  # recorded instead of a lead time that Label Studio cannot handle
CLOCK_SKEW_S = 10.0  # the clocks of the machines of one installation may differ by this much
OTHER_CONTROL = "(another control)"  # the digest of an annotation made with another control


@dataclass(frozen=True)
class LabelConfig:
    """The parts of a project's label config that Tightloop uses."""

    from_name: str
    to_name: str
    image_key: str  # the key of the image in a task's data
    choices: tuple[str, ...]
    takes_uploads: bool = True  # whether Label Studio accepts uploaded images for this config


@dataclass(frozen=True)
class Annotation:
    """One person's annotation of one task."""

    annotation_id: int
    task_id: int
    image_id: str  # "" if Tightloop did not create the task
    annotator: int | None  # None = the label comes from the data set
    label: str | None  # None = skipped, or submitted empty
    was_skipped: bool
    updated_at: str
    is_ground_truth: bool = False
    accepted_guess: bool = False  # the model's pre-selected label was submitted unchanged
    # How long the task was open in the browser; or IMPORTED_S or IMPOSSIBLE_S
    seconds: float | None = None
    is_of_other_control: bool = False  # it has results, but none from the label config's Choices

    @property
    def is_imported(self) -> bool:
        """Return whether the annotation was made elsewhere, so its annotator may not be here."""
        return self.seconds == IMPORTED_S

    @property
    def working_s(self) -> float | None:
        """Return how long the annotator took, in seconds, or None if that is unknown."""
        return None if self.seconds in (IMPORTED_S, IMPOSSIBLE_S) else self.seconds

    @property
    def digest(self) -> str:
        """Return text that changes whenever the annotation's meaning changes."""
        empty = OTHER_CONTROL if self.is_of_other_control else "(empty)"
        label = "(skipped)" if self.was_skipped else self.label or empty
        return f"{label} (ground truth)" if self.is_ground_truth else label


@dataclass(frozen=True)
class DeletedSkip:
    """A skip that was deleted in Label Studio so that the image is served again."""

    annotation_id: int
    image_id: str
    annotator: int


@dataclass(frozen=True)
class Task:
    """One task, without its image."""

    task_id: int
    image_id: str  # "" if Tightloop did not create the task
    is_open: bool  # nobody has annotated or skipped it yet
    awaits_second_opinion: bool  # annotated, and open to another annotator


@dataclass(frozen=True)
class Asked:
    """A record of how an image was queried, written at the time of the query and never changed."""

    image_id: str
    round: int  # 0 = before the first model
    strategy: str  # or VALIDATION, or ACCEPTANCE
    version: str  # "" = before the first model
    confidence: float | None = None  # None = not recorded
    probs: tuple[float, ...] = ()  # (classes,), as predicted by that version; () = none


@dataclass(frozen=True)
class TaskReading:
    """A task with all its annotations, read in one request."""

    task: Task
    updated_at: str  # ISO 8601, from Label Studio's clock
    annotations: tuple[Annotation, ...]
    asked: Asked | None  # as recorded in the task's data
    address: str | None = None  # of the image; "" = none; None in projects that we created
    is_unmarked: bool = False  # its data does not say that Tightloop created the task


@dataclass(frozen=True)
class ListedTask:
    """A task of an attached project, without its state."""

    task_id: int
    address: str  # of its image, as `rows.kept_address` returns it; "" = none


@dataclass(frozen=True)
class Prediction:
    """A model version's prediction for one image; `score` orders the tasks, low = query first."""

    label: str | None  # None = annotators see no guess
    probability: float | None
    score: float
    model_version: str


@dataclass(frozen=True)
class TaskImage:
    """An image file as annotators see it."""

    content: bytes
    mime: str


@dataclass(frozen=True)
class NewTask:
    """A task to create. If it has a `label` or `labels_by`, it is imported as already annotated."""

    image_id: str
    data: Mapping[str, Any]
    prediction: Prediction | None = None
    label: str | None = None  # the label that comes from the data set
    labels_by: Mapping[int, str] = field(default_factory=dict)  # labels by annotator


@dataclass(frozen=True)
class ProjectCounts:
    """The size of a project; `annotations` excludes skipped annotations."""

    tasks: int
    annotations: int
    skipped: int
    open: int
    awaiting_second_opinion: int = 0


@dataclass(frozen=True)
class TaskOrder:
    """The project settings that decide which task annotators get next."""

    is_by_confidence: bool  # predictions of `model_version` order the tasks that have them
    model_version: str  # "" = none
    annotations_per_task: int = 1  # if more than 1, tasks that have an annotation come first
    has_predictions: bool = True  # whether any task has a prediction of any version


class LabelingProject(Protocol):
    """A project whose images are labeled by people in Label Studio or by a simulation."""

    def label_config(self) -> LabelConfig: ...
    def n_tasks(self) -> int: ...
    def count_annotations(self) -> int: ...
    def tasks(self) -> list[Task]: ...
    def annotations(self) -> dict[int, list[Annotation]]: ...
    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]: ...
    def open_tasks(
        self, skipped: Set[int] = frozenset(), among: Collection[int] | None = None
    ) -> list[Task]: ...
    def predicted_by(self, version: str, task_ids: Collection[int]) -> set[int]: ...
    def annotations_of(self, image_id: str) -> dict[int, list[Annotation]]: ...
    def add_ground_truth(self, task_id: int, label: str, annotator: int | None) -> None: ...
    def annotate(self, task_id: int, label: str, annotator: int) -> bool: ...
    def delete_annotation(self, annotation_id: int) -> None: ...
    def upload(self, images: Mapping[str, TaskImage]) -> dict[str, str]: ...
    def import_tasks(self, new_tasks: Sequence[NewTask]) -> int: ...
    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int: ...
    def task_order(self) -> TaskOrder: ...
    def switch_model_version(self, version: str) -> None: ...
    def model_versions(self) -> list[str]: ...
    def delete_predictions(self, version: str) -> None: ...
    def delete_tasks(self, task_ids: Sequence[int]) -> None: ...
    def reopen(self, task_id: int, n_annotators: int) -> None: ...
    def annotator_names(self) -> dict[int, str]: ...
    def set_description(self, text: str) -> bool: ...


def match_classes(choices: Sequence[str], pool_classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes in the pool's order, spelled as in the label config.

    Case, order and surrounding spaces are ignored. If the two lists still differ, raises a
    LabelConfigError that contains both.
    """
    spelling = {fold(choice): choice for choice in choices}
    wanted = [*map(fold, pool_classes)]
    if len(spelling) != len(choices) or sorted(spelling) != sorted(wanted):
        raise LabelConfigError(
            f"the label config's choices ({', '.join(choices)}) do not match the pool's classes "
            f"({', '.join(pool_classes)}): change the label config, or set POOL"
        )
    return tuple(spelling[name] for name in wanted)
