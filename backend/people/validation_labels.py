"""Decide the labels of validation images, which only annotators label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

from backend.base.labeling import Annotation, DeletedSkip, Task
from backend.people.annotators import has_duplicate_annotations

MAX_SKIPS = 2  # an image that was skipped this many times is not shown again
MOST_ANNOTATORS = 3  # two annotators, and a third if they disagree

# Takes the labels of an image, and whether its task is open to another annotator; returns whether
# to wait for another annotator.
WaitRule = Callable[[Sequence[str], bool], bool]


@dataclass(frozen=True)
class ValidationProgress:
    """How many images in the validation sample are labeled."""

    labeled: int = field(metadata={"description": "images whose label is decided"})
    wanted: int = field(
        metadata={
            "description": "how many labels annotators are asked to give (`VALIDATION_LABELS`)"
        }
    )
    undecided: int = field(
        metadata={
            "description": "images that were skipped twice, or for which no label has a majority"
        }
    )
    pending: int = field(
        metadata={
            "description": "images that were queried, but are neither labeled nor undecided yet"
        }
    )

    @property
    def asked(self) -> int:
        """Return how many images are finished, whether labeled or undecided."""
        return self.labeled + self.undecided


@dataclass(frozen=True)
class Outcome:
    """The result of annotating one image without the model's guess, as of now."""

    state: Literal["decided", "pending", "undecided"]
    label: str | None = None  # None unless decided
    reopen_for: int = 0  # for how many annotators the task must be reopened; 0 = it must not
    skip: Annotation | None = None  # the skip to delete, if no other annotator is available

    @property
    def must_ask(self) -> bool:
        """Return whether the task must be reopened before Label Studio serves it to anyone."""
        return bool(self.reopen_for) or self.skip is not None


PENDING, UNDECIDED = Outcome("pending"), Outcome("undecided")


def until_two_agree(labels: Sequence[str], is_open: bool) -> bool:
    """Wait as long as the task is open, and for a third annotator if two disagree."""
    return is_open or (len(labels) < MOST_ANNOTATORS and len(set(labels)) == 2)


def decide_label(
    task: Task,
    annotations: Sequence[Annotation],
    deleted_skips: Sequence[DeletedSkip],
    active: Set[int],
    classes: Collection[str],
    *,
    must_wait: WaitRule = until_two_agree,
    may_reopen: bool = True,
) -> Outcome:
    """Decide the label of one image from the annotations of its task.

    A ground truth annotation always decides. Otherwise, only the latest annotation of each
    annotator counts. Once `must_wait` returns False, or none of the `active` annotators can receive
    the task, the most frequent label decides; a tie leaves the image undecided. Labels from the
    data set do not count. Without `may_reopen`, no outcome reopens the task or deletes a skip.
    """
    of_people = sorted(
        (a for a in annotations if a.annotator is not None), key=lambda a: a.updated_at
    )
    truths = [a.label for a in of_people if a.is_ground_truth and a.label in classes]
    if truths:
        return Outcome("decided", truths[-1])
    latest = {a.annotator: a for a in of_people}
    is_anyone_waiting = bool(active - latest.keys())
    labels = [a.label for a in latest.values() if a.label is not None and a.label in classes]
    if labels:
        may_ask = is_anyone_waiting and not has_duplicate_annotations(annotations)
        is_open = task.awaits_second_opinion
        if may_ask and (is_open or may_reopen) and must_wait(labels, is_open):
            return PENDING if is_open else Outcome("pending", reopen_for=len(labels) + 1)
        return _majority(labels)
    skips = {a.annotation_id: a for a in latest.values() if a.was_skipped}
    n_skips = len(skips.keys() | {skip.annotation_id for skip in deleted_skips})
    if n_skips >= MAX_SKIPS or (latest and not skips):
        return UNDECIDED
    if skips and not is_anyone_waiting:
        skip = next(iter(skips.values()))
        return Outcome("pending", skip=skip) if may_reopen else UNDECIDED
    return PENDING


def decide_labels(
    tasks: Sequence[Task],
    annotations: Mapping[int, Sequence[Annotation]],
    deleted_skips: Sequence[DeletedSkip],
    active: Set[int],
    classes: Collection[str],
    *,
    may_reopen: bool = True,
) -> dict[int, Outcome]:
    """Decide the labels of all validation images; return one outcome per task."""
    skips_of: dict[str, list[DeletedSkip]] = {}
    for skip in deleted_skips:
        skips_of.setdefault(skip.image_id, []).append(skip)
    return {
        task.task_id: decide_label(
            task,
            annotations.get(task.task_id, ()),
            skips_of.get(task.image_id, ()),
            active,
            classes,
            may_reopen=may_reopen,
        )
        for task in tasks
    }


def _majority(labels: Sequence[str]) -> Outcome:
    """Decide the label from the labels that annotators gave."""
    [(label, count), *others] = Counter(labels).most_common()
    if others and others[0][1] == count:
        return UNDECIDED
    return Outcome("decided", label)
