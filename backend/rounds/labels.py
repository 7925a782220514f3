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
from backend.rounds.annotation_use import (
    EMPTY,
    FOREIGN_TASK,
    LEARNED,
    NOT_IN_POOL,
    OTHER_CONTROL,
    OVERRULED,
    REMOVED_CLASS,
    SKIPPED,
    UNAVAILABLE,
    UNKNOWN_CLASS,
    VALIDATION_IMAGE,
    Outcomes,
)
from backend.rounds.embeddings import start_embeddings
from backend.rounds.loop import LabeledImages, Loop
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
class SortedAnnotations:
    """All annotations, sorted into those that training can use and the others."""

    pairs: Sequence[tuple[Annotation, ClassAnnotation]]  # the usable annotations
    unusable: Sequence[tuple[Annotation, str]]  # with the reason

    @property
    def usable(self) -> tuple[ClassAnnotation, ...]:
        """Return the annotations that training can use."""
        return tuple(usable for _, usable in self.pairs)

    @property
    def left_out(self) -> dict[str, int]:
        """Count the other annotations by reason, except those of validation images."""
        counts = Counter(reason for _, reason in self.unusable)
        return {reason: count for reason, count in counts.items() if reason != VALIDATION_IMAGE}

    def outcomes(self, consensus: Consensus) -> Outcomes:
        """Return what becomes of each annotation if a model learns these labels.

        A usable annotation is learned if it agrees with the label of its image.
        """
        labels = dict(zip(consensus.image_ids, consensus.labels.tolist(), strict=True))
        found = {a.annotation_id: (a.digest, reason) for a, reason in self.unusable}
        for annotation, usable in self.pairs:
            is_learned = labels[usable.image_id] == usable.label
            outcome = LEARNED if is_learned else OVERRULED
            found[annotation.annotation_id] = (annotation.digest, outcome)
        return found


@dataclass(frozen=True)
class LabelReading:
    """The labels derived from all annotations, and the data from which they were derived."""

    annotations: tuple[ClassAnnotation, ...]
    asked_probs: Mapping[str, Row]  # from the version that queried the image
    probs: Mapping[str, Row]  # also from heads that never saw the annotations
    consensus: Consensus
    labels: LabeledImages
    outcomes: Outcomes  # what becomes of each annotation


def read_labels(
    loop: Loop,
    annotations: Mapping[int, Sequence[Annotation]],
    progress: Progress | None = None,
) -> LabelReading:
    """Find one label per image, and count the annotations that cannot be used.

    If `progress` is given, also compute probabilities for images that were queried without a model,
    which takes seconds.
    """
    found = sort_annotations(
        loop.pool, loop.store, loop.classes, annotations, is_attached=loop.is_attached
    )
    usable, left_out = found.usable, found.left_out
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
    outcomes = found.outcomes(consensus)
    return LabelReading(usable, asked_probs, probs, consensus, labels, outcomes)


def sort_annotations(
    images: KnownImages,
    store: ProjectStore,
    classes: ClassList,
    annotations: Mapping[int, Sequence[Annotation]],
    *,
    is_attached: bool,
) -> SortedAnnotations:
    """Sort the annotations into those that training can use and the others, with the reason.

    If several images have the same content, their annotations count for the first of these images.
    """
    known, of_sample = set(images.known_ids), {t.task_id for t in store.validation_tasks()}
    foreign = store.foreign_tasks()
    usable, unusable = [], []
    for annotation in (a for of_task in annotations.values() for a in of_task):
        image_id = images.canonical(annotation.image_id)
        position = None if annotation.label is None else classes.position(annotation.label)
        if annotation.task_id in of_sample:
            reason = VALIDATION_IMAGE
        elif annotation.task_id in foreign:
            reason = FOREIGN_TASK
        elif image_id not in known and images.is_in_sample(image_id):
            reason = VALIDATION_IMAGE
        elif position is None:
            reason = _why_without_class(annotation, classes)
        elif image_id not in known:
            reason = UNAVAILABLE if is_attached else NOT_IN_POOL
        else:
            chosen = ClassAnnotation(
                image_id,
                annotation.annotator,
                position,
                annotation.updated_at,
                annotation.is_ground_truth,
            )
            usable.append((annotation, chosen))
            continue
        unusable.append((annotation, reason))
    return SortedAnnotations(usable, unusable)


def _why_without_class(annotation: Annotation, classes: ClassList) -> str:
    """Return why an annotation refers to no current class."""
    if annotation.was_skipped:
        return SKIPPED
    if annotation.is_of_other_control:
        return OTHER_CONTROL
    if annotation.label is None:
        return EMPTY
    return REMOVED_CLASS if classes.was_known(annotation.label) else UNKNOWN_CLASS


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
    fifth. The heads use embeddings of the body that training starts from, because a body
    trained here has seen the labels. The probabilities are computed at most once.
    """
    of_people = {a.image_id for a in annotations if a.annotator is not None}
    queried_without_model = of_people - probs.keys()
    n_classes = len(loop.pool.classes)
    kept = loop.classes.align_rows(loop.store.fold_probs(n_classes))
    known = {i: kept[i] for i in queried_without_model & kept.keys()}
    if progress is None or len(known) == len(queried_without_model) or not loop.has_pretrained_body:
        return known
    labels = find_consensus(annotations, probs)
    embeddings = start_embeddings(loop, labels.image_ids, progress)
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
