"""Measure how well each annotator does."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from backend.base.labeling import Annotation
from backend.measures.interval import interval_of
from backend.rounds.labels import LabelReading
from backend.store.project_rows import AnnotatorFigures


def annotator_figures(
    annotations: Mapping[int, Sequence[Annotation]],
    reading: LabelReading,
    classes: Sequence[str],
    names: Mapping[int, str],
) -> list[AnnotatorFigures]:
    """Return a row per annotator, least reliable first; annotators of unknown quality come last.

    `names` are the annotators' names by id; `classes` are the label config's choices.
    """
    labels = (classes[label] for label in reading.consensus.labels)
    label_of = dict(zip(reading.consensus.image_ids, labels, strict=True))
    n_annotators = Counter(i for i, _ in {(a.image_id, a.annotator) for a in reading.annotations})
    guess_of = {i: classes[int(np.argmax(row))] for i, row in reading.asked_probs.items()}
    by_annotator: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in (a for of_task in annotations.values() for a in of_task):
        if annotation.annotator is not None:
            by_annotator[annotation.annotator].append(annotation)
    rows = []
    for annotator, own in by_annotator.items():
        usable = [a for a in own if a.label in classes and a.image_id in label_of]
        # Ground truth agrees with the consensus by definition, and annotators set it unaided.
        judged = [a for a in usable if not a.is_ground_truth]
        agrees = [label_of[a.image_id] == a.label for a in judged if n_annotators[a.image_id] > 1]
        guessed = [a for a in judged if a.image_id in guess_of]
        # The accepted guess may come from a later version than the one that queried the image.
        is_right = [
            label_of[a.image_id] == (a.label if a.accepted_guess else guess_of[a.image_id])
            for a in guessed
        ]
        quality = reading.consensus.annotators.get(annotator)
        low, high = _interval(quality, len(agrees))
        seconds = [a.seconds for a in usable if a.seconds is not None]
        rows.append(
            AnnotatorFigures(
                annotator=annotator,
                name=names.get(annotator, f"person {annotator} (no longer in Label Studio)"),
                answers=len(usable),
                skipped=sum(a.was_skipped for a in own),
                agreement=_share(agrees),
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


def _interval(quality: float | None, n_shared: int) -> tuple[float | None, float | None]:
    """Return the interval of a quality estimated from `n_shared` comparable annotations."""
    if quality is None or not n_shared:
        return None, None
    return interval_of(quality, n_shared)


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
