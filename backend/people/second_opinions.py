"""Choose annotated images that another person should annotate as well.

A finished task can be reopened for annotators who have not annotated it. New images and second
opinions are compared on ActiveLab's scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from backend.base.arrays import Probs
from backend.base.labeling import Annotation
from backend.people.annotators import has_duplicate_annotations
from backend.people.consensus import ClassAnnotation, Row, active_lab

MAX_ANNOTATORS = 5
MAX_SHARE = 0.5  # share of a batch; annotators who have annotated all reopened images need new ones


@dataclass(frozen=True)
class AnnotatedTask:
    """A task that has been annotated but has no ground truth or label from the data set."""

    task_id: int
    image_id: str
    n_annotators: int  # excluding those who skipped the task
    seen_by: frozenset[int | None]  # everyone who annotated or skipped the task


def find_annotated(
    annotations: Mapping[int, Sequence[Annotation]], image_ids: Set[str]
) -> list[AnnotatedTask]:
    """List the tasks for `image_ids` that another person could annotate, oldest first."""
    found = []
    for task_id, of_task in sorted(annotations.items()):
        submitted = [a for a in of_task if not a.was_skipped]
        is_settled = any(a.is_ground_truth or a.annotator is None for a in of_task)
        is_annotated = any(a.label is not None and a.image_id in image_ids for a in submitted)
        if is_annotated and not is_settled and not has_duplicate_annotations(of_task):
            annotators = {a.annotator for a in submitted}
            seen_by = frozenset(a.annotator for a in of_task)
            found.append(AnnotatedTask(task_id, submitted[0].image_id, len(annotators), seen_by))
    return found


def choose_second_opinions(
    tasks: Sequence[AnnotatedTask],
    annotations: Sequence[ClassAnnotation],
    probs: Mapping[str, Row],
    new_probs: Probs,
    active: Set[int],
    count: int,
) -> list[AnnotatedTask]:
    """For a batch of `count`, choose tasks whose second opinions are worth more than new images.

    Only tasks that at least one of the `active` annotators has not seen are chosen. `new_probs`
    contains the model's (images, classes) probabilities for images that have not been queried yet.
    If there are no new images, no second opinions are chosen either, so that a project can end.
    """
    if not len(new_probs):
        return []
    may_ask = {
        task.image_id: task
        for task in tasks
        if task.n_annotators < MAX_ANNOTATORS and active - task.seen_by
    }
    again, new = active_lab(annotations, probs, new_probs)
    ranked = sorted((score, image_id) for image_id, score in again.items() if image_id in may_ask)
    best_new = np.sort(new)[:count]
    chosen: list[AnnotatedTask] = []
    for score, image_id in ranked[: int(MAX_SHARE * count)]:
        # Another second opinion would displace the last new image.
        n_new = count - len(chosen)
        if n_new <= len(best_new) and score >= best_new[n_new - 1]:
            break
        chosen.append(may_ask[image_id])
    return chosen


def annotated_by_fewer_than(
    tasks: Sequence[AnnotatedTask], n_annotators: int
) -> list[AnnotatedTask]:
    """Select the tasks that fewer than `n_annotators` annotators have annotated."""
    return [task for task in tasks if task.n_annotators < n_annotators]
