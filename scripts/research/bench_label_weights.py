"""Measure how much a label should weigh in training, by heads fitted on few images."""

from __future__ import annotations

from itertools import product

import numpy as np

from backend.base.arrays import Labels, Scores
from backend.network.head import fit_head
from backend.people.consensus import find_consensus
from scripts.research.consensus_trial import ConsensusTrial, cross_validate
from scripts.research.crowd import Crowd
from scripts.research.experiment import Rows
from scripts.research.learning_curves import interval

SEEDS, FOLDS, ANNOTATORS = 5, 5, 10
WEIGHTS = ("quality", "model alone", "soft labels")


def weight_figures(trial: ConsensusTrial) -> dict[str, str]:
    """Return how many points each weighting scheme gains over equal weights on the validation split
    when few images are labeled and every fourth has two annotations.
    """
    figures = {}
    for n_images, is_careful in product((700, 1600), (False, True)):
        gains = np.array(
            [_gains(trial, n_images, seed, is_careful=is_careful) for seed in range(SEEDS)]
        )
        around = [interval(of_seeds) for of_seeds in 100 * gains.T]
        crowd = "careful annotators" if is_careful else "that crowd, two unreliable"
        figures[f"{n_images:,} images, {crowd}"] = ", ".join(
            f"{name} {mean:+.1f} ± {half:.1f}"
            for name, (mean, half) in zip(WEIGHTS, around, strict=True)
        )
    return figures


def _gains(
    trial: ConsensusTrial, n_images: int, seed: int, *, is_careful: bool
) -> tuple[float, float, float]:
    """Return what a head gains by each of WEIGHTS."""
    pool, n_classes = trial.pool, len(trial.pool.classes)
    whole, validation = trial.embeddings
    rng = np.random.default_rng([trial.seed, seed])
    rows = np.sort(rng.permutation(len(pool.image_ids))[:n_images])
    truths = {pool.image_ids[row]: [pool.classes[trial.truth[row]]] * 3 for row in rows}
    counts = np.where(np.arange(n_images) % 4 == 0, 2, 1)
    crowd = Crowd(
        truths if is_careful else trial.real,
        pool.classes,
        ANNOTATORS,
        np.random.default_rng([seed, int(counts.sum()), not is_careful]),
        has_unreliable=not is_careful,
    )
    annotations = trial.annotate(crowd, counts, rows)
    majority = find_consensus(annotations, {})
    rows = pool.positions(majority.image_ids)
    probs = cross_validate(trial.judge_by_head, majority.labels, rows, FOLDS, rng)
    found = find_consensus(annotations, dict(zip(majority.image_ids, probs, strict=True)))

    def accuracy(copies: Rows, labels: Labels, weights: Scores | None) -> float:
        head = fit_head(whole[rows[copies]], labels, n_classes, None, weights)
        favourite = head.probs(validation).argmax(axis=1)
        return float((favourite == pool.validation.labels).mean())

    once = np.arange(n_images)
    soft = np.full((n_images, n_classes), (1 - found.quality[:, None]) / (n_classes - 1))
    soft[once, found.labels] = found.quality
    copies, labels = np.repeat(once, n_classes), np.tile(np.arange(n_classes), n_images)
    equal = accuracy(once, found.labels, None)
    return (
        accuracy(once, found.labels, found.quality) - equal,
        accuracy(once, found.labels, probs[once, found.labels]) - equal,
        accuracy(copies, labels, soft.ravel().astype(np.float32)) - equal,
    )
