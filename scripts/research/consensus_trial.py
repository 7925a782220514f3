"""Annotate a pool by a simulated crowd, and cross-validate models on these annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from backend.base.arrays import Embeddings, Labels, Probs
from backend.images.pool import Pool, true_labels
from backend.network import resnet
from backend.network.head import fit_head
from backend.network.training import Recipe
from backend.people.consensus import ClassAnnotation
from scripts.console.progress_bars import progress_bar
from scripts.research.crowd import Crowd
from scripts.research.experiment import Experiment, Rows

# Learns from labels of rows, and returns the class probabilities of other rows.
Judge = Callable[[Labels, Rows, Rows], Probs]
GUESSES_FROM = 500  # images


@dataclass(frozen=True)
class ConsensusTrial:
    """A pool with real annotations, and the settings that all tables about it share."""

    experiment: Experiment
    real: Mapping[str, Sequence[str]]  # annotations by image id
    image_size: int
    n_annotators: int
    folds: int
    seed: int
    epochs: int | None  # of each fold's training; None: fit heads on the pre-trained body

    @property
    def pool(self) -> Pool:
        """The annotated images."""
        return self.experiment.pool

    @cached_property
    def truth(self) -> Labels:
        """The true class of each image, in the pool's order."""
        position = {name: n for n, name in enumerate(self.pool.classes)}
        return np.array([position[label] for label in true_labels(self.pool).values()])

    @cached_property
    def embeddings(self) -> tuple[Embeddings, Embeddings]:
        """The pre-trained body's embeddings of the pool and of the validation split."""
        body = resnet.build(len(self.pool.classes), self.experiment.weights.state, seed=0)
        whole, validation = (
            self.experiment.predict(body.state_dict(), images, self.image_size).embeddings
            for images in (self.pool.images, self.pool.validation.images)
        )
        return whole, validation

    @cached_property
    def guesses(self) -> Labels:
        """What an early model shows annotators: the classes of a head fitted on few images."""
        known = np.random.default_rng(self.seed).permutation(len(self.truth))[:GUESSES_FROM]
        return self.judge_by_head(self.truth[known], known, np.arange(len(self.truth))).argmax(
            axis=1
        )

    def annotate(self, crowd: Crowd, n_annotations: Labels, rows: Rows) -> list[ClassAnnotation]:
        """Have annotators, picked at random, annotate each of these images so many times."""
        annotations: list[ClassAnnotation] = []
        for row, count in zip(rows.tolist(), n_annotations.tolist(), strict=True):
            image_id, guess = self.pool.image_ids[row], self.pool.classes[self.guesses[row]]
            used: set[int | None] = set()
            for _ in range(count):
                annotator = crowd.pick(used)
                used.add(annotator)
                label = self.pool.classes.index(crowd.annotate(annotator, image_id, guess))
                annotations.append(
                    ClassAnnotation(image_id, annotator, label, f"{len(annotations):09d}")
                )
        return annotations

    def judge(self, labels: Labels, learned: Rows, judged: Rows) -> Probs:
        """Fit a head or train a network, as the trial says, and predict."""
        if self.epochs is None:
            return self.judge_by_head(labels, learned, judged)
        recipe = Recipe(image_size=self.image_size, epochs=self.epochs)
        state = self.experiment.train(learned, labels, recipe, self.seed)
        return self.experiment.predict(state, self.pool.images[judged], self.image_size).probs

    def judge_by_head(self, labels: Labels, learned: Rows, judged: Rows) -> Probs:
        """Fit a head on the pre-trained body and predict."""
        embeddings, _ = self.embeddings
        head = fit_head(embeddings[learned], labels, len(self.pool.classes))
        return head.probs(embeddings[judged])


def cross_validate(
    judge: Judge, labels: Labels, rows: Rows, folds: int, rng: np.random.Generator
) -> Probs:
    """Return class probabilities of each row, by a model that learned from the other folds."""
    parts: list[tuple[Rows, Probs]] = []
    with progress_bar() as progress:
        for fold in np.array_split(rng.permutation(len(rows)), folds):
            progress("judging all folds", sum(len(part) for part, _ in parts), len(rows))
            others = np.setdiff1d(np.arange(len(rows)), fold)
            parts.append((fold, judge(labels[others], rows[others], rows[fold])))
        progress("judging all folds", len(rows), len(rows))
    order = np.argsort(np.concatenate([fold for fold, _ in parts]))
    return np.concatenate([probs for _, probs in parts])[order]
