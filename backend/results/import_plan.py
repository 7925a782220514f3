"""Plan which labels in a file to import, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from backend.base.image_ids import image_id_of_task
from backend.base.labeling import Annotation
from backend.results.import_file import ImportedLabel
from backend.rounds.loop import Loop

# Reasons why labels are left out
HAS_TASK = "without an annotator, for images that already have a task"
HELD_OUT = "for validation or test images, whose labels are known"
OF_SAMPLE = "without an annotator, for validation images, which only people label"
NO_TASK = "for tasks that no longer exist"
NOT_USABLE = "for images that were removed or cannot be read"


class KnownTasks:
    """The tasks and annotations that the project had when it was last read."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        store = loop.store
        if loop.is_attached:
            self._tasks = {image_id_of_task(t.task_id): t.task_id for t in store.listed_tasks()}
        else:
            self._tasks = {t.image_id: t.task_id for t in reversed(store.tasks()) if t.image_id}
        canonical = loop.pool.canonical
        self._tasks_of_copies = {canonical(i): task_id for i, task_id in self._tasks.items()}
        self._labels: dict[int, dict[int | None, set[str | None]]] = {}
        self._usable = frozenset((*loop.pool.image_ids, *loop.pool.sample.image_ids))

    def task_of(self, image_id: str) -> int | None:
        """Return the task of an image, or of an image with the same content, or None."""
        if (task_id := self._tasks.get(image_id)) is not None:
            return task_id
        return self._tasks_of_copies.get(self._loop.pool.canonical(image_id))

    def labels(self, task_id: int) -> dict[int | None, set[str | None]]:
        """Return a mapping from annotator to the current classes that the annotator chose in a
        task.

        The key None is the data set; a skip is the label None.
        """
        if task_id not in self._labels:
            found: dict[int | None, set[str | None]] = {}
            for annotation in self._annotations.get(task_id, ()):
                found.setdefault(annotation.annotator, set()).add(self._label(annotation))
            self._labels[task_id] = found
        return self._labels[task_id]

    def fault(self, image_id: str, annotator: int | None) -> str:
        """Return why no task can be created for an image, or ""."""
        pool = self._loop.pool
        canonical = pool.canonical(image_id)
        if self._loop.is_attached:
            return NO_TASK
        if canonical not in self._usable:
            return HELD_OUT if self._is_held_out(canonical) else NOT_USABLE
        return OF_SAMPLE if annotator is None and pool.is_in_sample(canonical) else ""

    @cached_property
    def _annotations(self) -> Mapping[int, Sequence[Annotation]]:
        return self._loop.store.annotations()

    def _label(self, annotation: Annotation) -> str | None:
        return None if annotation.label is None else self._loop.classes.spell(annotation.label)

    def _is_held_out(self, image_id: str) -> bool:
        pool = self._loop.pool
        if pool.source is None:
            return True
        [row] = pool.source.index.rows([image_id])
        return bool(pool.source.index.splits[row] != "pool") and not pool.is_in_sample(image_id)


@dataclass
class NewLabels:
    """The labels with which one task is created."""

    of_data_set: str | None = None
    by: dict[int, str] = field(default_factory=dict)  # by annotator

    def __len__(self) -> int:
        return len(self.by) + (self.of_data_set is not None)


@dataclass
class ImportPlan:
    """The changes that an import would make now. Each label in the file is counted once."""

    new_tasks: dict[str, NewLabels] = field(default_factory=dict)  # by image id
    annotations: list[tuple[int, int, str]] = field(default_factory=list)  # task, annotator, label
    n_unchanged: int = 0  # labels that the project already has
    n_different: int = 0  # labels whose annotator chose another class or skipped the image
    left_out: Counter[str] = field(default_factory=Counter)  # labels by reason
    no_account: Counter[str] = field(default_factory=Counter)  # labels by annotator

    @property
    def n_new(self) -> int:
        """Return the number of labels to import."""
        return sum(map(len, self.new_tasks.values())) + len(self.annotations)


def plan_import(
    loop: Loop, labels: Sequence[ImportedLabel], accounts: Mapping[str, int]
) -> ImportPlan:
    """Compare the labels with the project as it was last read.

    `accounts` maps emails in lower case to annotators. A label is left out if its annotator has no
    account. An import never changes what annotators have already done.
    """
    plan, known = ImportPlan(), KnownTasks(loop)
    for label in labels:
        annotator = accounts.get(label.annotator) if label.annotator else None
        if label.annotator and annotator is None:
            plan.no_account[label.annotator] += 1
        elif (task_id := known.task_of(label.image_id)) is not None:
            _plan_annotation(plan, known, task_id, annotator, label.label)
        elif fault := known.fault(label.image_id, annotator):
            plan.left_out[fault] += 1
        else:
            new = plan.new_tasks.setdefault(loop.pool.canonical(label.image_id), NewLabels())
            _plan_label(plan, new, annotator, label.label)
    return plan


def _plan_annotation(
    plan: ImportPlan, known: KnownTasks, task_id: int, annotator: int | None, label: str
) -> None:
    """Plan to annotate an existing task unless the annotator has already annotated it."""
    earlier = known.labels(task_id).get(annotator)
    if earlier is not None:
        plan.n_unchanged += label in earlier
        plan.n_different += label not in earlier
    elif annotator is None:
        plan.left_out[HAS_TASK] += 1
    else:
        plan.annotations.append((task_id, annotator, label))
        known.labels(task_id)[annotator] = {label}


def _plan_label(plan: ImportPlan, new: NewLabels, annotator: int | None, label: str) -> None:
    """Add a label to a planned task, unless a copy of the image already gave it the annotator's
    label.
    """
    earlier = new.of_data_set if annotator is None else new.by.get(annotator)
    if earlier is not None:
        plan.n_unchanged += label == earlier
        plan.n_different += label != earlier
    elif annotator is None:
        new.of_data_set = label
    else:
        new.by[annotator] = label
