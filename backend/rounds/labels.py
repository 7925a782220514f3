"""Labels: annotations in; what the next model learns from out, and how well each person does."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from backend.base.errors import TooFewLabelsError
from backend.base.labeling import Annotation
from backend.base.progress import Progress
from backend.measures.interval import interval_of
from backend.network.head import fit_head
from backend.people.consensus import ClassAnnotation, Consensus, Row, find_consensus
from backend.rounds.loop import LabeledImages, Loop
from backend.rounds.versions import has_pretrained_body, pretrained_embeddings
from backend.store.annotator_figures import AnnotatorFigures

log = logging.getLogger(__name__)

FOLDS = 5


@dataclass(frozen=True)
class LabelReading:
    """What all annotations say together."""

    answers: tuple[ClassAnnotation, ...]
    asked_probs: Mapping[str, Row]  # what the version that asked an image thought of it
    probs: Mapping[str, Row]  # the same, and of other models that never saw the answers
    consensus: Consensus
    labels: LabeledImages


def read_labels(
    loop: Loop,
    annotations: Mapping[int, Sequence[Annotation]],
    progress: Progress | None = None,
) -> LabelReading:
    """Find one label per image; what cannot be used is left out and counted.

    With `progress` it may take the seconds to find out what a model thinks of images that were
    asked without one.
    """
    answers, left_out = _answers(annotations, loop.names, loop.pool.image_ids)
    asked_probs = loop.store.asked_probs(len(loop.names))
    probs = asked_probs | _fold_probs(loop, answers, asked_probs, progress)
    consensus = find_consensus(answers, probs)
    if consensus.conflicts:
        left_out["contradicted ground truth"] = len(consensus.conflicts)
    told = [consensus.image_ids, consensus.labels.tolist(), consensus.weights.round(2).tolist()]
    labels = LabeledImages(
        image_ids=consensus.image_ids,
        classes=consensus.labels,
        weights=consensus.weights,
        left_out=left_out,
        fingerprint=hashlib.sha256(repr(told).encode()).hexdigest(),
    )
    return LabelReading(answers, asked_probs, probs, consensus, labels)


def annotator_figures(
    annotations: Mapping[int, Sequence[Annotation]],
    reading: LabelReading,
    names: Sequence[str],
    people: Mapping[int, str],
) -> list[AnnotatorFigures]:
    """A row per person, least reliable first and unknown ones last; `people` has their names."""
    label_of = dict(
        zip(reading.consensus.image_ids, reading.consensus.labels.tolist(), strict=True)
    )
    n_people = Counter(i for i, _ in {(a.image_id, a.annotator) for a in reading.answers})
    by_person: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in (a for of_task in annotations.values() for a in of_task):
        if annotation.annotator is not None:
            by_person[annotation.annotator].append(annotation)
    rows = [
        _figures(person, given, reading, names, people, label_of, n_people)
        for person, given in by_person.items()
    ]
    return sorted(rows, key=lambda row: (row.quality is None, row.quality, row.annotator))


def _figures(
    person: int,
    given: Sequence[Annotation],
    reading: LabelReading,
    names: Sequence[str],
    people: Mapping[int, str],
    label_of: Mapping[str, int],
    n_people: Mapping[str, int],
) -> AnnotatorFigures:
    answered = [a for a in given if a.label in names and a.image_id in label_of]
    # A ground truth agrees with the consensus by itself, and is given without a hint.
    judged = [a for a in answered if not a.is_ground_truth]
    agrees = [names[label_of[a.image_id]] == a.label for a in judged if n_people[a.image_id] > 1]
    guessed = [a for a in judged if a.image_id in reading.asked_probs]
    # A guess that was taken is the answer; one that was not is about what the asking version gave.
    is_right = [
        (
            a.label == names[label_of[a.image_id]]
            if a.accepted_guess
            else int(np.argmax(reading.asked_probs[a.image_id])) == label_of[a.image_id]
        )
        for a in guessed
    ]
    quality = reading.consensus.annotators.get(person)
    low, high = _interval(quality, len(agrees))
    return AnnotatorFigures(
        annotator=person,
        name=people.get(person, f"person {person} (not in Label Studio any more)"),
        answers=len(answered),
        skipped=sum(a.was_skipped for a in given),
        agreement=_share(agrees),
        quality=quality,
        quality_low=low,
        quality_high=high,
        guesses_shown=len(guessed),
        guesses_taken=_share([a.accepted_guess for a in guessed]),
        guesses_right=_share(is_right),
        median_seconds=median(s for a in answered if (s := a.seconds) is not None)
        if any(a.seconds is not None for a in answered)
        else None,
    )


def _interval(quality: float | None, n_shared: int) -> tuple[float | None, float | None]:
    """As if those answers that can be compared with others' were all that it rests on."""
    if quality is None or not n_shared:
        return None, None
    return interval_of(quality, n_shared)


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _answers(
    annotations: Mapping[int, Sequence[Annotation]], names: Sequence[str], image_ids: Iterable[str]
) -> tuple[tuple[ClassAnnotation, ...], dict[str, int]]:
    """Annotations that can be learned from, and how many cannot, by reason."""
    class_of = {name: position for position, name in enumerate(names)}
    in_pool = set(image_ids)
    left_out: Counter[str] = Counter()
    answers = []
    for annotation in (a for of_task in annotations.values() for a in of_task):
        if annotation.was_skipped:
            left_out["skipped"] += 1
        elif annotation.label is None:
            left_out["empty"] += 1
        elif annotation.label not in class_of:
            left_out["unknown class"] += 1
        elif annotation.image_id not in in_pool:
            left_out["not of the pool"] += 1
        else:
            answers.append(
                ClassAnnotation(
                    annotation.image_id,
                    annotation.annotator,
                    class_of[annotation.label],
                    annotation.updated_at,
                    annotation.is_ground_truth,
                )
            )
    return tuple(answers), dict(left_out)


def _fold_probs(
    loop: Loop,
    answers: Sequence[ClassAnnotation],
    probs: Mapping[str, Row],
    progress: Progress | None,
) -> dict[str, Row]:
    """What heads on the pre-trained body, each fitted without a fifth of the labels, think of that
    fifth: for images that were asked without a model, and kept once computed.

    None of them where there is no pre-trained body: one that was trained here has seen the labels.
    """
    of_people = {a.image_id for a in answers if a.annotator is not None}
    queried_without_model = of_people - probs.keys()
    n_classes = len(loop.pool.classes)
    kept = loop.store.fold_probs(n_classes)
    known = {i: kept[i] for i in queried_without_model & kept.keys()}
    if (
        progress is None
        or len(known) == len(queried_without_model)
        or not has_pretrained_body(loop)
    ):
        return known
    labels = find_consensus(answers, probs)
    embeddings = pretrained_embeddings(loop, labels.image_ids, progress)
    found: dict[str, Row] = {}
    rng = np.random.default_rng(loop.seed)
    folds = np.array_split(rng.permutation(len(labels.image_ids)), FOLDS)
    for fold in folds:
        others = np.setdiff1d(np.arange(len(labels.image_ids)), fold)
        try:
            head = fit_head(embeddings[others], labels.labels[others], n_classes)
        except TooFewLabelsError:
            return known
        for row, of_image in zip(fold, head.probs(embeddings[fold]), strict=True):
            if labels.image_ids[row] in queried_without_model:
                found[labels.image_ids[row]] = of_image
    loop.store.record_fold_probs([*found], [*found.values()])
    return found
