"""Decide whether the model's labels for the images in an acceptance sample are right."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

from backend.base.labeling import Annotation, DeletedSkip, Task
from backend.people.validation_labels import MOST_ANNOTATORS, Outcome, decide_label


def decide_acceptance(
    task: Task,
    annotations: Sequence[Annotation],
    deleted_skips: Sequence[DeletedSkip],
    active: Set[int],
    classes: Collection[str],
    model_label: str,
    *,
    may_reopen: bool = True,
) -> Outcome:
    """Decide the label of one image in an acceptance sample from the annotations of its task.

    The first annotator decides if the label is the model's. Otherwise, a second annotator is asked,
    and a third if only one of the two chose the model's label. The majority decides, unless one
    annotation is ground truth. A label from the data set decides if no person has annotated the
    image.
    """

    def may_be_an_error(labels: Sequence[str], is_open: bool) -> bool:  # noqa: ARG001
        n_other = len(labels) - labels.count(model_label)
        return n_other == 1 and len(labels) < MOST_ANNOTATORS

    if all(a.annotator is None for a in annotations):
        of_data_set = [a.label for a in annotations if a.label in classes]
        if of_data_set:
            return Outcome("decided", of_data_set[-1])
    return decide_label(
        task,
        annotations,
        deleted_skips,
        active,
        classes,
        must_wait=may_be_an_error,
        may_reopen=may_reopen,
    )


def is_right(outcome: Outcome, model_label: str) -> bool | None:
    """Return whether the model's label is right, or None while the image is not decided.

    The model's label is wrong if the annotators did not settle on one label.
    """
    return None if outcome.state == "pending" else outcome.label == model_label
