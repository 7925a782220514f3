"""Compare an adapted body with the body that it was made from, by heads on the same labels."""

from __future__ import annotations

import numpy as np

from backend.base.progress import Progress
from backend.measures.gate import Right, judge
from backend.network.head import fit_head
from backend.rounds.embeddings import start_embeddings
from backend.rounds.loop import LabeledImages, Loop
from backend.rounds.start import StartBody
from backend.store.body_meta import BodyComparison


def compare_bodies(
    loop: Loop,
    labels: LabeledImages,
    before: StartBody,
    after: StartBody,
    progress: Progress,
) -> tuple[BodyComparison | None, str | None]:
    """Return how accurate heads on both bodies are, and why `after` is refused.

    It is refused if the head on it is significantly worse on validation. It is not if there are too
    few validation labels to judge; without any, or without labels of two classes, there is no
    comparison either.
    """
    if not len(loop.pool.validation.labels) or len(np.unique(labels.classes)) < 2:
        return None, None
    was_right, is_right = (_head_is_right(loop, labels, b, progress) for b in (before, after))
    verdict = judge(is_right, {before.name: was_right}, loop.validation_labels or None)
    gate = verdict.gate
    comparison = BodyComparison(
        against=before.name,
        labels=len(labels.classes),
        validation_images=len(is_right),
        accuracy_before=float(was_right.mean()),
        accuracy_after=float(is_right.mean()),
        p_value=gate.p_value if gate and not gate.note else None,
    )
    return comparison, verdict.refused


def _head_is_right(loop: Loop, labels: LabeledImages, body: StartBody, progress: Progress) -> Right:
    """Return for each validation image whether a head on this body predicts its label."""
    validation = loop.pool.validation
    fitted_to = start_embeddings(loop, labels.image_ids, progress, body)
    head = fit_head(fitted_to, labels.classes, len(loop.pool.classes), None, labels.weights)
    probs = head.probs(start_embeddings(loop, validation.image_ids, progress, body))
    right: Right = loop.classes.align(probs).argmax(axis=1) == validation.labels
    return right
