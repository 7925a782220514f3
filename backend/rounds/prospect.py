"""Find out how many of the remaining images the model could label now, and with what promise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Scores
from backend.base.errors import NoModelError
from backend.base.progress import Progress
from backend.measures.acceptance import share_of
from backend.measures.finish_plan import FinishPlan, choose_plan, smallest_max_error
from backend.rounds.finish_progress import percent
from backend.rounds.loop import Loop
from backend.rounds.scoring import pool_probs, validation_probs
from backend.rounds.validation import with_validation
from backend.store.finish_store import FinishImage
from backend.store.project_rows import FinishOutlook

OUTLOOK_ERRORS = (0.02, 0.05, 0.1)


@dataclass(frozen=True, eq=False)
class Prospect:
    """A version's labels for images without a task, and its results on the validation images."""

    version: str
    image_ids: tuple[str, ...]  # images without a task or a label by the model
    labels: tuple[str, ...]  # the version's label for each of them
    confidences: Scores  # (images,), the probability of that label
    validation: Scores  # the version's confidence about each validation image
    is_right: NDArray[np.bool_]  # whether the version is right about each validation image
    try_number: int  # of the next try
    may_validate_more: bool  # whether annotators can give more validation labels

    @property
    def share(self) -> float:
        """Return the next try's part of the risk that any promise of the project is broken."""
        return share_of(self.try_number - 1)

    def plan(self, max_error: float) -> FinishPlan | None:
        """Return the plan for labels of which at most this share is wrong, or None."""
        return choose_plan(self.validation, self.is_right, self.confidences, max_error, self.share)

    def images(self, plan: FinishPlan) -> list[FinishImage]:
        """Return the images that a plan is about, with the version's labels."""
        return [
            FinishImage(self.image_ids[row], self.labels[row], float(self.confidences[row]))
            for row in np.flatnonzero(self.confidences >= plan.threshold)
        ]

    def outlook(self) -> tuple[FinishOutlook, ...]:
        """Return what the model could label for each of OUTLOOK_ERRORS."""
        return tuple(_outlook(max_error, self.plan(max_error)) for max_error in OUTLOOK_ERRORS)

    def advice(self, max_error: float) -> str:
        """Explain why there is no plan for this share of errors, and what would help."""
        promise = f"at most {percent(max_error)} wrong"
        if not self.image_ids:
            return "no image is left that the model could label: every image has a task"
        if not len(self.validation):
            return (
                f"{self.version} has not been measured on validation images yet, so it is unknown "
                "which of its labels are right: label more validation images"
            )
        smallest = smallest_max_error(self.validation, self.is_right, self.confidences, self.share)
        other = f"use --max-error {smallest:.2f} or more, or " if smallest is not None else ""
        measured_better = ""
        if self.may_validate_more:
            measured_better = "; more validation labels also help, because they show how good it is"
        return (
            f"{self.version} cannot label enough of the {len(self.image_ids):,} remaining images "
            f"with {promise}: {other}wait until the model has learned from more labels"
            f"{measured_better}"
        )


def look_ahead(loop: Loop, progress: Progress) -> Prospect:
    """Compare the version in service with the validation labels, and find the remaining images.

    Raises NoModelError if no version exists yet.
    """
    version = loop.registry.current()
    if version is None:
        raise NoModelError("no model yet: training starts once the first images are labeled")
    loop = with_validation(loop)
    pool = loop.pool
    taken = {pool.canonical(task.image_id) for task in loop.store.tasks()}
    taken |= loop.reserved_images() | loop.gone_images() | pool.removed_ids
    rows = [row for row, image_id in enumerate(pool.image_ids) if image_id not in taken]
    probs = pool_probs(loop, version, progress)[rows]
    validated = probs[:0]
    if len(pool.validation.labels):
        validated = validation_probs(loop, version)
    return Prospect(
        version=version.version,
        image_ids=tuple(pool.image_ids[row] for row in rows),
        labels=tuple(loop.names[column] for column in probs.argmax(axis=1)),
        confidences=probs.max(axis=1, initial=0.0),
        validation=validated.max(axis=1, initial=0.0),
        is_right=validated.argmax(axis=1) == pool.validation.labels,
        try_number=len(loop.finish_store.tries()) + 1,
        may_validate_more=bool(loop.validation_labels),
    )


def _outlook(max_error: float, plan: FinishPlan | None) -> FinishOutlook:
    return FinishOutlook(
        max_error=max_error,
        model_labels=plan.n_by_model if plan else 0,
        sample=plan.n_sample if plan else 0,
        allowed_errors=plan.allowed_errors if plan else 0,
        pass_probability=plan.pass_probability if plan else 0.0,
    )
