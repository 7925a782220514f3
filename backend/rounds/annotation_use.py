"""Report how many annotations were learned, and why the others were not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backend.store.annotation_outcomes import AnnotationOutcomes

Outcomes = Mapping[int, tuple[str, str]]  # the digest and the outcome, by annotation id

LEARNED = "learned"
NEW = "new"
SKIPPED = "skipped"
EMPTY = "empty"
OTHER_CONTROL = "another control"
REMOVED_CLASS = "removed class"
UNKNOWN_CLASS = "unknown class"
NOT_IN_POOL = "not of the pool"
UNAVAILABLE = "image not available"
VALIDATION_IMAGE = "validation image"
FOREIGN_TASK = "foreign task"
OVERRULED = "overruled"
# How each reason is worded after a number.
WORDS: Mapping[str, str] = {
    SKIPPED: "skipped",
    EMPTY: "without a choice",
    OTHER_CONTROL: "made with another control",
    REMOVED_CLASS: "of a removed class",
    UNKNOWN_CLASS: "of a class that the label config never offered",
    NOT_IN_POOL: "of images no longer in the pool",
    UNAVAILABLE: "of images that cannot be read",
    VALIDATION_IMAGE: "of validation images",
    FOREIGN_TASK: "of tasks that Tightloop did not create",
    OVERRULED: "overruled by other annotations",
    NEW: "new",
}
# These need no attention: the next training run or the validation uses such annotations.
EXPECTED = (NEW, VALIDATION_IMAGE)


def without(outcomes: Outcomes, *names: str) -> dict[int, tuple[str, str]]:
    """Return all outcomes except those with these names."""
    return {i: outcome for i, outcome in outcomes.items() if outcome[1] not in names}


def count_outcomes(root: Path) -> dict[str, int]:
    """Count all annotations in Label Studio, including skips, by what became of them.

    Returns {} until labels are learned for the first time.
    """
    return AnnotationOutcomes(root).count(skipped=SKIPPED, foreign=FOREIGN_TASK, new=NEW)


def name_reasons(counts: Mapping[str, int]) -> str:
    """Return the reasons in words, the most frequent first and new annotations last."""
    ordered = sorted(counts.items(), key=lambda item: (item[0] == NEW, -item[1]))
    return ", ".join(f"{count:,} {WORDS.get(reason, reason)}" for reason, count in ordered)


def use_sentence(learned: int | None, unlearned: Mapping[str, int]) -> str:
    """Return how many annotations were learned, and why the others were not.

    Skipped images are not counted. Returns "" before the first training run, and if all other
    annotations are new or belong to validation images.
    """
    left_out = {reason: n for reason, n in unlearned.items() if n and reason != SKIPPED}
    if learned is None or not left_out.keys() - {*EXPECTED}:
        return ""
    total = learned + sum(left_out.values())
    return f"{total:,} annotations, {learned:,} learned: {name_reasons(left_out)}"
