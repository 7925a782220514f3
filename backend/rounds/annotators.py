"""Measure the quality and speed of each annotator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from backend.base.labeling import Annotation
from backend.measures.interval import interval_of
from backend.rounds.labels import LabelReading
from backend.rounds.validation_reading import NO_READING, ValidationReading
from backend.store.project_rows import AnnotatorFigures


def annotator_figures(
    annotations: Mapping[int, Sequence[Annotation]],
    reading: LabelReading,
    classes: Sequence[str],
    names: Mapping[int, str],
    validation: ValidationReading = NO_READING,
) -> list[AnnotatorFigures]:
    """Return one row per annotator, least reliable first.

    Annotators of unknown quality come last. `names` contains the annotators' names by id. `classes`
    contains the label config's choices, in the order of the pool's classes. Images in the
    validation sample count toward every figure except the quality.
    """
    label_of = _labels(reading, validation, classes)
    n_annotators = _count_annotators(reading, validation)
    guess_of = {i: classes[int(np.argmax(row))] for i, row in reading.asked_probs.items()}
    rows = []
    n_skips = _count_skips(annotations, validation)
    for annotator, own in _by_annotator(annotations, n_skips).items():
        usable = [a for a in own if a.label in classes and a.image_id in label_of]
        # Ground truth agrees with the label by definition, and is set without seeing a guess.
        judged = [a for a in usable if not a.is_ground_truth]
        shared = [a for a in judged if n_annotators[a.image_id] > 1 and label_of[a.image_id]]
        guessed = [a for a in judged if a.image_id in guess_of and not a.is_imported]
        # The accepted guess may come from a later version than the one that queried the image.
        is_right = [
            label_of[a.image_id] == (a.label if a.accepted_guess else guess_of[a.image_id])
            for a in guessed
        ]
        quality = reading.consensus.annotators.get(annotator)
        # The consensus, which estimates the quality, does not include the validation sample.
        n_compared = sum(a.task_id not in validation.outcomes for a in shared)
        low, high = _interval(quality, n_compared)
        seconds = [a.working_s for a in usable if a.working_s is not None]
        rows.append(
            AnnotatorFigures(
                annotator=annotator,
                name=names.get(annotator, f"person {annotator} (no longer in Label Studio)"),
                answers=len(usable),
                skipped=n_skips[annotator],
                agreement=_share([label_of[a.image_id] == a.label for a in shared]),
                quality=quality,
                quality_low=low,
                quality_high=high,
                guesses_shown=len(guessed),
                guesses_taken=_share([a.accepted_guess for a in guessed]),
                guesses_right=_share(is_right),
                median_seconds=median(seconds) if seconds else None,
            )
        )
    return sorted(rows, key=lambda row: (row.quality is None, row.quality, row.annotator))


def _labels(
    reading: LabelReading, validation: ValidationReading, classes: Sequence[str]
) -> dict[str, str | None]:
    """Return the label of each annotated image, or None if it is not decided yet."""
    labels = (classes[label] for label in reading.consensus.labels)
    consensus = dict(zip(reading.consensus.image_ids, labels, strict=True))
    of_sample = {task.image_id: validation.labels.get(task.image_id) for task in validation.tasks}
    return consensus | of_sample


def _count_annotators(reading: LabelReading, validation: ValidationReading) -> Counter[str]:
    """Count the annotators who labeled each image."""
    given = {(a.image_id, a.annotator) for a in reading.annotations}
    for of_task in validation.annotations.values():
        given |= {(a.image_id, a.annotator) for a in of_task if a.label}
    return Counter(image_id for image_id, _ in given)


def _count_skips(
    annotations: Mapping[int, Sequence[Annotation]], validation: ValidationReading
) -> Counter[int]:
    """Count how often each annotator skipped an image, including deleted skips."""
    skips = {
        a.annotation_id: a.annotator
        for of_task in annotations.values()
        for a in of_task
        if a.was_skipped and a.annotator is not None
    }
    skips |= {skip.annotation_id: skip.annotator for skip in validation.deleted_skips}
    return Counter(skips.values())


def _by_annotator(
    annotations: Mapping[int, Sequence[Annotation]], n_skips: Mapping[int, int]
) -> dict[int, list[Annotation]]:
    """Group the annotations by annotator, including annotators whose skips were all deleted."""
    found: dict[int, list[Annotation]] = {annotator: [] for annotator in n_skips}
    for annotation in (a for of_task in annotations.values() for a in of_task):
        if annotation.annotator is not None:
            found.setdefault(annotation.annotator, []).append(annotation)
    return found


def _interval(quality: float | None, n_shared: int) -> tuple[float | None, float | None]:
    """Return the confidence interval of a quality, based on `n_shared` shared annotations."""
    if quality is None or not n_shared:
        return None, None
    return interval_of(quality, n_shared)


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
