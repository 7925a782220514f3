"""Estimate the accuracy from the training labels until there are enough validation labels."""

from __future__ import annotations

import numpy as np

from backend.base.errors import TooFewLabelsError
from backend.base.progress import Progress
from backend.measures.evaluation import Evaluation, evaluate
from backend.network.head import cross_validated_probs
from backend.rounds.accuracy import enough_labels
from backend.rounds.embeddings import start_embeddings
from backend.rounds.loop import LabeledImages, Loop

GROWTH = 1.25  # fitting five heads takes seconds, so wait for a quarter more labels


def estimate_accuracy(
    loop: Loop, labels: LabeledImages, earlier: Evaluation | None, progress: Progress
) -> Evaluation | None:
    """Return how well heads on the start of training predict labels that they were not fitted to.

    The estimate is biased: query strategies choose hard images, and a head on that body
    is weaker than a fine-tuned network. Returns None if a better measurement exists, if there are
    no pre-trained weights, or if there are too few labels. Returns the `earlier` estimate if it was
    made from almost as many labels.
    """
    n_labels = len(loop.pool.validation.labels)
    if n_labels >= enough_labels(loop.validation_labels) or not loop.has_pretrained_body:
        return None
    if earlier is not None and earlier.images <= len(labels.classes) < GROWTH * earlier.images:
        return earlier
    embeddings = start_embeddings(loop, labels.image_ids, progress)
    rng = np.random.default_rng(loop.seed)
    try:
        probs = cross_validated_probs(embeddings, labels.classes, len(loop.pool.classes), rng)
    except TooFewLabelsError:
        return None
    return evaluate(probs, labels.classes)
