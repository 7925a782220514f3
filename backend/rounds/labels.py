"""Turn annotations into the labels that the next model is trained on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from backend.base.classes import ClassList
from backend.base.errors import TooFewLabelsError
from backend.base.labeling import Annotation
from backend.base.progress import Progress
from backend.network.head import cross_validated_probs
from backend.people.consensus import ClassAnnotation, Consensus, Row, find_consensus
from backend.rounds.loop import LabeledImages, Loop
from backend.rounds.scoring import pretrained_embeddings
from backend.store.project_store import ProjectStore


class KnownImages(Protocol):
    """The images whose annotations count, with or without their pixels."""

    @property
    def known_ids(self) -> Collection[str]:
        """Return all images that a model can be trained on."""

    def canonical(self, image_id: str) -> str:
        """Return the id of the image that counts: this image, or another with the same content."""

    def is_in_sample(self, image_id: str) -> bool:
        """Return whether only annotators label an image, or the image that it copies."""


@dataclass(frozen=True)
class LabelReading:
    """The labels derived from all annotations, and the data from which they were derived."""

    annotations: tuple[ClassAnnotation, ...]
    asked_probs: Mapping[str, Row]  # from the version that queried the image
    probs: Mapping[str, Row]  # also from heads that never saw the annotations
    consensus: Consensus
    labels: LabeledImages


def read_labels(
    loop: Loop,
    annotations: Mapping[int, Sequence[Annotation]],
    progress: Progress | None = None,
) -> LabelReading:
    """Find one label per image, and count the annotations that cannot be used.

    If `progress` is given, also compute probabilities for images that were queried without a model,
    which takes seconds.
    """
    usable, left_out = usable_annotations(
        loop.pool, loop.store, loop.classes, annotations, is_attached=loop.is_attached
    )
    asked_probs = read_asked_probs(loop.pool, loop.store, loop.classes)
    probs = asked_probs | _fold_probs(loop, usable, asked_probs, progress)
    consensus = find_consensus(usable, probs)
    if consensus.conflicts:
        left_out["contradicted ground truth"] = len(consensus.conflicts)
    content = [consensus.image_ids, consensus.labels.tolist(), consensus.weights.round(2).tolist()]
    labels = LabeledImages(
        image_ids=consensus.image_ids,
        classes=consensus.labels,
        weights=consensus.weights,
        left_out=left_out,
        fingerprint=hashlib.sha256(repr(content).encode()).hexdigest(),
    )
    return LabelReading(usable, asked_probs, probs, consensus, labels)


def usable_annotations(
    images: KnownImages,
    store: ProjectStore,
    classes: ClassList,
    annotations: Mapping[int, Sequence[Annotation]],
    *,
    is_attached: bool,
) -> tuple[tuple[ClassAnnotation, ...], dict[str, int]]:
    """Return the usable annotations, and the number of unusable ones by reason.

    If several images have the same content, their annotations count for the first of these images.
    Annotations of validation images are left out, but do not count as unusable.
    """
    known, of_sample = set(images.known_ids), {t.task_id for t in store.validation_tasks()}
    left_out: Counter[str] = Counter()
    usable = []
    for annotation in (a for of_task in annotations.values() for a in of_task):
        image_id = images.canonical(annotation.image_id)
        if annotation.task_id in of_sample:
            continue
        if image_id not in known and images.is_in_sample(image_id):
            continue
        if annotation.was_skipped:
            left_out["skipped"] += 1
        elif annotation.is_of_other_control:
            left_out["another control"] += 1
        elif annotation.label is None:
            left_out["empty"] += 1
        elif (position := classes.position(annotation.label)) is None:
            was_known = classes.was_known(annotation.label)
            left_out["removed class" if was_known else "unknown class"] += 1
        elif image_id not in known:
            left_out["image not available" if is_attached else "not of the pool"] += 1
        else:
            usable.append(
                ClassAnnotation(
                    image_id,
                    annotation.annotator,
                    position,
                    annotation.updated_at,
                    annotation.is_ground_truth,
                )
            )
    return tuple(usable), dict(left_out)


def read_asked_probs(
    images: KnownImages, store: ProjectStore, classes: ClassList
) -> dict[str, Row]:
    """Return the probabilities of each image from the version that queried it."""
    kept = classes.align_rows(store.asked_probs(len(classes.columns)))
    return {images.canonical(image_id): probs for image_id, probs in kept.items()}


def _fold_probs(
    loop: Loop,
    annotations: Sequence[ClassAnnotation],
    probs: Mapping[str, Row],
    progress: Progress | None,
) -> dict[str, Row]:
    """Return out-of-sample probabilities for images that were queried without a model.

    A head fitted to four fifths of the labels predicts the remaining fifth; this is done for each
    fifth. The heads use embeddings of the pre-trained body, because a body trained here has seen
    the labels. The probabilities are computed at most once.
    """
    of_people = {a.image_id for a in annotations if a.annotator is not None}
    queried_without_model = of_people - probs.keys()
    n_classes = len(loop.pool.classes)
    kept = loop.classes.align_rows(loop.store.fold_probs(n_classes))
    known = {i: kept[i] for i in queried_without_model & kept.keys()}
    if progress is None or len(known) == len(queried_without_model) or not loop.has_pretrained_body:
        return known
    labels = find_consensus(annotations, probs)
    embeddings = pretrained_embeddings(loop, labels.image_ids, progress)
    rng = np.random.default_rng(loop.seed)
    try:
        unseen = cross_validated_probs(embeddings, labels.labels, n_classes, rng)
    except TooFewLabelsError:
        return known
    found = {
        image_id: of_image
        for image_id, of_image in zip(labels.image_ids, unseen, strict=True)
        if image_id in queried_without_model
    }
    loop.store.record_fold_probs([*found], [*found.values()])
    return found
