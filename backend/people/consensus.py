"""Consensus: people's answers and a model's opinion in; one label per image out, how sure it is,
and how good each annotator is.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
from cleanlab.multiannotator import (
    get_active_learning_scores,
    get_label_quality_multiannotator,
    get_majority_vote_label,
)
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray

from backend.base.arrays import Labels, Probs, Scores

# With fewer images that several people answered, people's qualities are guesses.
MIN_SHARED = 20
TIE_BREAK = 1e-9

Row = NDArray[np.float32]  # (classes,)


class Answer(NamedTuple):
    """One person's answer to one image."""

    image_id: str
    annotator: int | None  # None = the data set
    label: int  # position of the class
    answered_at: str  # ISO 8601, so that text order is time order
    is_ground_truth: bool = False


@dataclass(frozen=True)
class Consensus:
    """What people meant: a row per image, in the order of their ids."""

    image_ids: tuple[str, ...]
    labels: Labels
    quality: Scores  # how likely each label is right, 0..1
    weights: Scores  # how much each label should count in a training, 0..1
    annotators: dict[int, float | None]  # how likely a person's answer is right; None = unknown
    conflicts: tuple[str, ...]  # images with ground truths that contradict each other


def find_consensus(answers: Iterable[Answer], probs: Mapping[str, Row]) -> Consensus:
    """One label per image, of those that somebody gave it.

    CROWDLAB (Goh et al. 2022, arXiv:2210.06812) where `probs` holds an image: what a model that
    never saw its answers thinks, (classes,). The majority elsewhere. A ground truth wins, the later
    one of two; a label of the data set stands where there is none. Two answers of one person to one
    image are one answer, the later one.

    Until MIN_SHARED images have several answers, nobody's quality is known: the majority decides,
    the model where it is divided, and a label is as likely right as the model finds it. Afterwards
    it is unknown of those whose images nobody else answered.

    A label's weight is its quality once people's qualities are known. Before, it is the same for
    all: measured, a head loses 1.8 points by weights that are the model's opinion alone. With known
    qualities it gains about one from careless people's labels and loses 0.2 from careful ones';
    soft labels lose.
    """
    given = sorted(answers, key=lambda answer: answer.answered_at)
    truths, conflicts = _ground_truths(given)
    votes = _votes(given)
    opinions = {image_id: probs[image_id] for image_id in sorted(votes) if image_id in probs}
    found = {i: _majority(v) for i, v in votes.items() if i not in opinions}
    of_people: dict[int, float] = {}
    is_known = _is_known(votes, opinions)
    if is_known:
        judged, of_people = _crowdlab(votes, opinions)
    else:
        judged = _majority_by_model(votes, opinions)
    found |= judged | {image_id: (label, 1.0) for image_id, label in truths.items()}
    people = {annotator for of_image in votes.values() for annotator in of_image}
    image_ids = tuple(sorted(found))
    quality = np.array([found[i][1] for i in image_ids], np.float32)
    return Consensus(
        image_ids=image_ids,
        labels=np.array([found[i][0] for i in image_ids], np.int64),
        quality=quality,
        weights=quality if is_known else np.ones_like(quality),
        annotators={person: of_people.get(person) for person in sorted(people)},
        conflicts=conflicts,
    )


def active_lab(
    answers: Iterable[Answer], probs: Mapping[str, Row], probs_unlabeled: Probs
) -> tuple[dict[str, float], Scores]:
    """How little another answer would help, for each image of `probs` that has answers, and for
    each row of `probs_unlabeled`: one scale, low = ask first (Goh & Mueller 2023,
    arXiv:2301.11856).
    """
    votes = _votes(sorted(answers, key=lambda answer: answer.answered_at))
    opinions = {image_id: probs[image_id] for image_id in sorted(votes) if image_id in probs}
    if not opinions:
        return {}, np.asarray(get_active_learning_scores(pred_probs_unlabeled=probs_unlabeled)[1])
    if not _is_known(votes, opinions):  # as if the majority were one person
        judged = _majority_by_model(votes, opinions)
        votes = {image_id: {0: label} for image_id, (label, _) in judged.items()}
    matrix, _ = _matrix(opinions, votes)
    with _quietly():
        again, new = get_active_learning_scores(matrix, _untied(opinions), probs_unlabeled)
    return dict(zip(opinions, map(float, again), strict=True)), new


def _votes(given: Iterable[Answer]) -> dict[str, dict[int, int]]:
    """Image -> annotator -> label, of people alone; whoever answered last comes last."""
    votes: dict[str, dict[int, int]] = defaultdict(dict)
    for answer in given:
        if answer.annotator is not None:
            votes[answer.image_id].pop(answer.annotator, None)
            votes[answer.image_id][answer.annotator] = answer.label
    return dict(votes)


def _ground_truths(given: Iterable[Answer]) -> tuple[dict[str, int], tuple[str, ...]]:
    """What is settled, by image, and the images that were settled in several ways."""
    of_data_set: dict[str, int] = {}
    of_people: dict[str, list[int]] = defaultdict(list)
    for answer in given:
        if answer.is_ground_truth:
            of_people[answer.image_id].append(answer.label)
        elif answer.annotator is None:
            of_data_set[answer.image_id] = answer.label
    conflicts = tuple(sorted(i for i, labels in of_people.items() if len(set(labels)) > 1))
    return of_data_set | {i: labels[-1] for i, labels in of_people.items()}, conflicts


def _is_known(votes: Mapping[str, Mapping[int, int]], opinions: Mapping[str, Row]) -> bool:
    """Whether enough images have several answers to tell how good people are."""
    return sum(len(votes[image_id]) > 1 for image_id in opinions) >= MIN_SHARED


def _majority(votes: Mapping[int, int]) -> tuple[int, float]:
    """The label that most gave, the first given among equals, and the share that gave it."""
    [(label, count)] = Counter(votes.values()).most_common(1)
    return label, count / len(votes)


def _majority_by_model(
    votes: Mapping[str, Mapping[int, int]], opinions: Mapping[str, Row]
) -> dict[str, tuple[int, float]]:
    """The label that most gave, the model's favourite among equals, and its probability."""
    if not opinions:
        return {}
    matrix, _ = _matrix(opinions, votes)
    probs = _untied(opinions)
    labels = get_majority_vote_label(matrix, probs, verbose=False)
    return _pairs(opinions, labels, get_label_quality_scores(labels, probs))


def _crowdlab(
    votes: Mapping[str, Mapping[int, int]], opinions: Mapping[str, Row]
) -> tuple[dict[str, tuple[int, float]], dict[int, float]]:
    """Label and quality by image, and each annotator's quality as far as it can be known."""
    matrix, people = _matrix(opinions, votes)
    with _quietly():
        found = get_label_quality_multiannotator(matrix, _untied(opinions))
    # Its own consensus may be a label that nobody gave. People's best is among theirs.
    quality: NDArray[np.float64] = found["detailed_label_quality"].to_numpy()
    best = np.nanargmax(quality, axis=1)
    rows = np.arange(len(opinions))
    judged = _pairs(opinions, matrix[rows, best].astype(np.int64), quality[rows, best])
    of_people: dict[int, float] = found["annotator_stats"]["annotator_quality"].to_dict()
    return judged, {people[n]: q for n, q in of_people.items() if np.isfinite(q)}


def _untied(opinions: Mapping[str, Row]) -> NDArray[np.float64]:
    """The opinions, (images, classes), a breath away from ties: cleanlab would break those by
    chance.
    """
    probs = np.array(list(opinions.values()), np.float64)
    places = np.arange(probs.shape[1], 0, -1)
    return (1 - TIE_BREAK) * probs + TIE_BREAK * places / places.sum()


def _pairs(
    image_ids: Iterable[str], labels: Labels, quality: NDArray[np.floating]
) -> dict[str, tuple[int, float]]:
    rows = zip(labels.tolist(), quality.tolist(), strict=True)
    return dict(zip(image_ids, rows, strict=True))


def _matrix(
    image_ids: Collection[str], votes: Mapping[str, Mapping[int, int]]
) -> tuple[NDArray[np.float64], list[int]]:
    """(images, annotators): what each said, NaN = nothing; and who the annotators are."""
    people = sorted({annotator for image_id in image_ids for annotator in votes[image_id]})
    column = {annotator: n for n, annotator in enumerate(people)}
    matrix = np.full((len(image_ids), len(people)), np.nan)
    for row, image_id in enumerate(image_ids):
        for annotator, label in votes[image_id].items():
            matrix[row, column[annotator]] = label
    return matrix, people


@contextmanager
def _quietly() -> Iterator[Any]:
    """Keep cleanlab's remarks about thin data from people: they are no errors here."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield
