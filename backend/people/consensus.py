"""Find one label per image from several annotators and a model, and rate the annotators.

Importing cleanlab takes a second, so only the functions that call cleanlab import it.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Labels, Probs, Scores

# With fewer images that have several annotators, the estimated qualities are unreliable.
MIN_SHARED = 20
TIE_BREAK = 1e-9

Row = NDArray[np.float32]  # (classes,), the class probabilities of one image


class ClassAnnotation(NamedTuple):
    """The class that one annotator chose for one image in the pool."""

    image_id: str
    annotator: int | None  # None = a label from the data set
    label: int  # position of the class
    annotated_at: str  # ISO 8601, so sorting as text sorts by time
    is_ground_truth: bool = False


@dataclass(frozen=True)
class Consensus:
    """The labels of all annotated images, one row per image, ordered by image id."""

    image_ids: tuple[str, ...]
    labels: Labels
    quality: Scores  # probability that the label is right, 0..1
    weights: Scores  # how much the label counts in training, 0..1
    annotators: dict[int, float | None]  # probability of being right; None = unknown
    conflicts: tuple[str, ...]  # ids of images with conflicting ground truths


def find_consensus(annotations: Iterable[ClassAnnotation], probs: Mapping[str, Row]) -> Consensus:
    """Find one label for each annotated image; it is always a label that an annotator chose.

    Uses CROWDLAB (Goh et al. 2022, arXiv:2210.06812) for images in `probs`, and the majority for
    all other images. `probs` contains the (classes,) probabilities of a model that was not trained
    on these images. The latest ground truth wins; without a ground truth, a label from the data set
    wins. If someone annotated an image twice, the later annotation counts.

    The annotators' qualities are unknown until MIN_SHARED images have several annotations. Until
    then, the majority decides, the model breaks ties, and a label's quality is the probability that
    the model assigns to it. Afterward, only annotators who share no image with another annotator
    have an unknown quality.

    A label's weight is its quality if the annotators' qualities are known, and 1 otherwise.
    In experiments, weights based only on the model's predictions reduced a head's accuracy by 1.8
    points. Weights based on known qualities gained about one point with careless annotators and
    lost 0.2 points with careful ones; soft labels were worse.
    """
    given = sorted(annotations, key=lambda a: a.annotated_at)
    truths, conflicts = _ground_truths(given)
    by_image = latest_labels(given)
    found = {i: _majority(chosen) for i, chosen in by_image.items() if i not in probs}
    crowd = _Crowd(by_image, probs)
    qualities: dict[int, float] = {}
    if crowd.image_ids:
        if crowd.is_rated:
            labels, quality, qualities = crowd.crowdlab()
        else:
            labels, quality = crowd.majority()
        pairs = zip(labels.tolist(), quality.tolist(), strict=True)
        found |= dict(zip(crowd.image_ids, pairs, strict=True))
    found |= {image_id: (label, 1.0) for image_id, label in truths.items()}
    image_ids = tuple(sorted(found))
    scores = np.array([found[i][1] for i in image_ids], np.float32)
    annotators = sorted({annotator for chosen in by_image.values() for annotator in chosen})
    return Consensus(
        image_ids=image_ids,
        labels=np.array([found[i][0] for i in image_ids], np.int64),
        quality=scores,
        weights=scores if crowd.is_rated else np.ones_like(scores),
        annotators={annotator: qualities.get(annotator) for annotator in annotators},
        conflicts=conflicts,
    )


def active_lab(
    annotations: Iterable[ClassAnnotation], probs: Mapping[str, Row], probs_unlabeled: Probs
) -> tuple[dict[str, float], Scores]:
    """Score each annotated image in `probs` and each row of `probs_unlabeled` by how little another
    annotation would help.

    All scores are on the same scale; the image with the lowest score should be queried first.
    Uses ActiveLab (Goh & Mueller 2023, arXiv:2301.11856).
    """
    from cleanlab.multiannotator import get_active_learning_scores

    crowd = _Crowd(latest_labels(annotations), probs)
    if not crowd.image_ids:
        return {}, np.asarray(get_active_learning_scores(pred_probs_unlabeled=probs_unlabeled)[1])
    # Until the annotators are rated, treat their majority as a single annotator.
    matrix = crowd.matrix if crowd.is_rated else crowd.majority()[0][:, None].astype(np.float64)
    with _silence_cleanlab():
        again, new = get_active_learning_scores(matrix, crowd.probs, probs_unlabeled)
    return dict(zip(crowd.image_ids, map(float, again), strict=True)), new


def latest_labels(annotations: Iterable[ClassAnnotation]) -> dict[str, dict[int, int]]:
    """Map each image to its annotators' latest labels, oldest first.

    Labels from the data set are left out.
    """
    labels: dict[str, dict[int, int]] = defaultdict(dict)
    for annotation in sorted(annotations, key=lambda a: a.annotated_at):
        if annotation.annotator is not None:
            labels[annotation.image_id].pop(annotation.annotator, None)
            labels[annotation.image_id][annotation.annotator] = annotation.label
    return dict(labels)


def _ground_truths(
    given: Iterable[ClassAnnotation],
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the labels of images with a ground truth, and images whose ground truths conflict."""
    of_data_set: dict[str, int] = {}
    of_people: dict[str, list[int]] = defaultdict(list)
    for annotation in given:
        if annotation.is_ground_truth:
            of_people[annotation.image_id].append(annotation.label)
        elif annotation.annotator is None:
            of_data_set[annotation.image_id] = annotation.label
    conflicts = tuple(sorted(i for i, labels in of_people.items() if len(set(labels)) > 1))
    return of_data_set | {i: labels[-1] for i, labels in of_people.items()}, conflicts


def _majority(labels: Mapping[int, int]) -> tuple[int, float]:
    """Return the most frequent label (the earliest in a tie) and its share."""
    [(label, count)] = Counter(labels.values()).most_common(1)
    return label, count / len(labels)


class _Crowd:
    """The annotated images for which a model has predictions, as arrays for cleanlab."""

    def __init__(self, by_image: Mapping[str, Mapping[int, int]], probs: Mapping[str, Row]) -> None:
        self.image_ids = sorted(by_image.keys() & probs.keys())
        chosen = [by_image[image_id] for image_id in self.image_ids]
        self.annotators = sorted({annotator for of_image in chosen for annotator in of_image})
        # (images, annotators), NaN = not annotated
        self.matrix = np.array(
            [[labels.get(a, np.nan) for a in self.annotators] for labels in chosen], np.float64
        )
        # Whether enough images have several annotations to estimate how good the annotators are.
        self.is_rated = sum(len(labels) > 1 for labels in chosen) >= MIN_SHARED
        # (images, classes); cleanlab would break ties at random, so a tiny bias prevents ties.
        opinions = np.array([probs[image_id] for image_id in self.image_ids], np.float64)
        places = np.arange(opinions.shape[-1], 0, -1)
        self.probs = (1 - TIE_BREAK) * opinions + TIE_BREAK * places / places.sum()

    def majority(self) -> tuple[Labels, NDArray[np.float64]]:
        """Return the most frequent labels (the model breaks ties) and their probabilities."""
        from cleanlab.multiannotator import get_majority_vote_label
        from cleanlab.rank import get_label_quality_scores

        labels = get_majority_vote_label(self.matrix, self.probs, verbose=False)
        return labels, get_label_quality_scores(labels, self.probs)

    def crowdlab(self) -> tuple[Labels, NDArray[np.float64], dict[int, float]]:
        """Return the labels, their qualities, and the known qualities of annotators."""
        from cleanlab.multiannotator import get_label_quality_multiannotator

        with _silence_cleanlab():
            found = get_label_quality_multiannotator(self.matrix, self.probs)
        # cleanlab may choose a label that no annotator chose. In that case, use the best label
        # that an annotator chose.
        quality: NDArray[np.float64] = found["detailed_label_quality"].to_numpy()
        best = np.nanargmax(quality, axis=1)
        rows = np.arange(len(self.image_ids))
        rated: dict[int, float] = found["annotator_stats"]["annotator_quality"].to_dict()
        qualities = {self.annotators[n]: q for n, q in rated.items() if np.isfinite(q)}
        return self.matrix[rows, best].astype(np.int64), quality[rows, best], qualities


@contextmanager
def _silence_cleanlab() -> Iterator[None]:
    """Hide cleanlab's warnings about sparse data, because sparse data is normal here."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield
