"""Compare the consensus with the majority vote and Dawid-Skene on real annotations.

    python -m scripts.research.bench_consensus --annotators annotators.csv.xz --tables three odd

A simulated crowd (scripts/research/crowd.py) makes the annotations. Each image is judged by a model
that was not trained on the image's annotations: `--train head` fits heads on the pre-trained body,
and `--train full` fine-tunes whole networks. To compare with Dawid-Skene, install crowd-kit:

    pip install --no-deps crowd-kit attrs
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from backend.base.arrays import Embeddings, Labels, Probs, Scores
from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.images.known_labels import true_labels
from backend.images.pool import Pool
from backend.network import resnet
from backend.network.head import fit_head
from backend.network.training import Recipe
from backend.people.consensus import ClassAnnotation, Consensus, find_consensus
from scripts.console.progress_bars import progress_bar
from scripts.research.crowd import Crowd, real_annotations
from scripts.research.experiment import Experiment, Rows, open_experiment
from scripts.research.learning_curves import interval

GUESSES_FROM = 500  # images
SEEDS, ANNOTATORS = 5, 10
WEIGHTS = ("quality", "model alone", "soft labels")

Figures = dict[str, str]
# Learns from the labels of some rows, and returns the class probabilities of other rows.
Judge = Callable[[Labels, Rows, Rows], Probs]


def main() -> int:
    """Print the requested tables."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--annotators", required=True, help="CSV: image, annotator_1, …")
    parser.add_argument("--tables", choices=TABLES, nargs="+", default=list(TABLES))
    parser.add_argument("--train", choices=["head", "full"], default="head")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--epochs", type=int, default=4, help="number of training epochs in each fold"
    )
    parser.add_argument("--people", type=int, default=30, help="the number of annotators")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = load_settings()
    experiment = open_experiment(settings, seed=settings.seed)
    trial = ConsensusTrial(
        experiment,
        real_annotations(arguments.annotators, experiment.pool, experiment.pool.image_ids),
        experiment.pool.image_size,
        arguments.people,
        arguments.folds,
        arguments.seed,
        arguments.epochs if arguments.train == "full" else None,
    )
    print(
        f"{trial.pool.name}, weights {experiment.weights.name}, {arguments.train}, "
        f"{trial.folds} folds, {len(trial.real):,} images, {trial.n_annotators} people"
    )
    for table in arguments.tables:
        title, measure = TABLES[table]
        print(f"\n{title}", flush=True)
        for name, value in measure(trial).items():
            print(f"{name:52} {value}", flush=True)
    return 0


@dataclass(frozen=True)
class ConsensusTrial:
    """A pool with real annotations, and the settings that all tables about it share."""

    experiment: Experiment
    real: Mapping[str, Sequence[str]]  # annotations by image id
    image_size: int
    n_annotators: int
    folds: int
    seed: int
    epochs: int | None  # of training in each fold, or None to fit heads on the pre-trained body

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
        """The guesses that annotators see: predictions by a head fitted to a few images."""
        every = np.arange(len(self.truth))
        known = np.random.default_rng(self.seed).permutation(every)[:GUESSES_FROM]
        return self.judge_by_head(self.truth[known], known, every).argmax(axis=1)

    def annotate(self, crowd: Crowd, n_annotations: Labels, rows: Rows) -> list[ClassAnnotation]:
        """Have randomly picked annotators annotate each image the given number of times."""
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

    def annotate_all(self, times: int, *, has_unreliable: bool) -> list[ClassAnnotation]:
        """Have each image in the pool annotated `times` times."""
        every = np.arange(len(self.truth))
        rng = np.random.default_rng([self.seed, times * len(every), has_unreliable])
        crowd = Crowd(
            self.real, self.pool.classes, self.n_annotators, rng, has_unreliable=has_unreliable
        )
        return self.annotate(crowd, np.full(len(every), times), every)

    def judge(self, labels: Labels, learned: Rows, judged: Rows) -> Probs:
        """Fit a head or train a network, depending on the trial, and return its predictions."""
        if self.epochs is None:
            return self.judge_by_head(labels, learned, judged)
        recipe = Recipe(image_size=self.image_size, epochs=self.epochs)
        state = self.experiment.train(learned, labels, recipe, self.seed)
        return self.experiment.predict(state, self.pool.images[judged], self.image_size).probs

    def judge_by_head(self, labels: Labels, learned: Rows, judged: Rows) -> Probs:
        """Fit a head on the pre-trained body, and return its predictions."""
        embeddings, _ = self.embeddings
        head = fit_head(embeddings[learned], labels, len(self.pool.classes))
        return head.probs(embeddings[judged])


@dataclass(frozen=True)
class Findings:
    """The labels that three methods find for some images."""

    rows: Rows  # of these images
    majority: Labels
    probs: Probs  # from models that were not trained on the annotations of these images
    consensus: Consensus
    seconds: float  # how long the consensus took


def find_labels(
    trial: ConsensusTrial,
    annotations: Sequence[ClassAnnotation],
    judge: Judge,
    rng: np.random.Generator,
) -> Findings:
    """Find the labels of the annotated images.

    Each fold is judged by a model that learned the majority labels of the other folds.
    """
    majority = find_consensus(annotations, {})
    rows, labels = trial.pool.positions(majority.image_ids), majority.labels
    folds = np.array_split(rng.permutation(len(rows)), trial.folds)
    judged = []
    with progress_bar() as progress:
        for number, fold in enumerate(folds):
            progress("judging all folds", number * len(rows) // len(folds), len(rows))
            others = np.setdiff1d(np.arange(len(rows)), fold)
            judged.append(judge(labels[others], rows[others], rows[fold]))
        progress("judging all folds", len(rows), len(rows))
    probs = np.concatenate(judged)[np.argsort(np.concatenate(folds))]
    began = time.perf_counter()
    found = find_consensus(annotations, dict(zip(majority.image_ids, probs, strict=True)))
    return Findings(rows, labels, probs, found, time.perf_counter() - began)


def three_figures(trial: ConsensusTrial, *, has_unreliable: bool) -> Figures:
    """Measure how well a consensus of 3 annotations finds labels and rates annotators."""
    annotations = trial.annotate_all(3, has_unreliable=has_unreliable)
    found = find_labels(trial, annotations, trial.judge, np.random.default_rng(trial.seed))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def error(labels: Labels) -> str:
        return f"{(labels != trial.truth[found.rows]).mean():.2%}"

    dawid_skene = _dawid_skene(annotations, found.consensus.image_ids)
    return {
        "model's own error, never having seen the annotations": error(found.probs.argmax(axis=1)),
        "majority's error": error(found.majority),
        "Dawid-Skene's error": (
            "(pip install --no-deps crowd-kit attrs)" if dawid_skene is None else error(dawid_skene)
        ),
        "CROWDLAB's error": error(found.consensus.labels),
        "annotators' quality: rank correlation": _rank_annotators(
            annotations, found.consensus, trial
        ),
        "consensus takes": f"{found.seconds:.1f} s; peak of this process {peak_mb:,.0f} MB",
    }


def single_figures(trial: ConsensusTrial) -> Figures:
    """Measure how well wrong annotations are found if each image has a single annotation."""
    annotations = trial.annotate_all(1, has_unreliable=False)
    found = find_labels(trial, annotations, trial.judge, np.random.default_rng(trial.seed))
    truth, quality = trial.truth[found.rows], found.consensus.quality
    is_wrong = found.consensus.labels != truth
    model_error = (found.probs.argmax(axis=1) != truth).mean()
    return {
        "wrong annotations": f"{is_wrong.mean():.1%}",
        "model's own error, never having seen the annotations": f"{model_error:.2%}",
        "label errors: AUROC of the ranking": f"{roc_auc_score(is_wrong, -quality):.3f}",
    }


def weight_figures(trial: ConsensusTrial) -> Figures:
    """Return each weighting scheme's gain over equal weights, in percentage points.

    The gain is measured on the validation split. Few images are labeled, and every fourth of them
    has two annotations.
    """
    figures = {}
    for n_images, is_careful in product((700, 1600), (False, True)):
        gains = [_gains(trial, n_images, seed, is_careful=is_careful) for seed in range(SEEDS)]
        around = [interval(of_seeds) for of_seeds in 100 * np.array(gains).T]
        crowd = "careful annotators" if is_careful else "that crowd, two unreliable"
        figures[f"{n_images:,} images, {crowd}"] = ", ".join(
            f"{name} {mean:+.1f} ± {half:.1f}"
            for name, (mean, half) in zip(WEIGHTS, around, strict=True)
        )
    return figures


def _gains(
    trial: ConsensusTrial, n_images: int, seed: int, *, is_careful: bool
) -> tuple[float, float, float]:
    """Return the gain in a head's accuracy from each weighting scheme in WEIGHTS."""
    pool, n_classes = trial.pool, len(trial.pool.classes)
    whole, validation = trial.embeddings
    rng = np.random.default_rng([trial.seed, seed])
    drawn = np.sort(rng.permutation(len(pool.image_ids))[:n_images])
    truths = {pool.image_ids[row]: [pool.classes[trial.truth[row]]] * 3 for row in drawn}
    counts = np.where(np.arange(n_images) % 4 == 0, 2, 1)
    crowd = Crowd(
        truths if is_careful else trial.real,
        pool.classes,
        ANNOTATORS,
        np.random.default_rng([seed, int(counts.sum()), not is_careful]),
        has_unreliable=not is_careful,
    )
    annotations = trial.annotate(crowd, counts, drawn)
    found = find_labels(trial, annotations, trial.judge_by_head, rng)

    def accuracy(copies: Rows, labels: Labels, weights: Scores | None) -> float:
        head = fit_head(whole[found.rows[copies]], labels, n_classes, None, weights)
        favourite = head.probs(validation).argmax(axis=1)
        return float((favourite == pool.validation.labels).mean())

    once, consensus = np.arange(n_images), found.consensus
    soft = np.full((n_images, n_classes), (1 - consensus.quality[:, None]) / (n_classes - 1))
    soft[once, consensus.labels] = consensus.quality
    copies, labels = np.repeat(once, n_classes), np.tile(np.arange(n_classes), n_images)
    equal = accuracy(once, consensus.labels, None)
    return (
        accuracy(once, consensus.labels, consensus.quality) - equal,
        accuracy(once, consensus.labels, found.probs[once, consensus.labels]) - equal,
        accuracy(copies, labels, soft.ravel().astype(np.float32)) - equal,
    )


def _rank_annotators(
    annotations: Sequence[ClassAnnotation], found: Consensus, trial: ConsensusTrial
) -> str:
    """Return Spearman's correlation between estimated and true quality.

    Also returns the ranks of the last two annotators.
    """
    rows = trial.pool.positions([a.image_id for a in annotations])
    annotators = np.array([a.annotator for a in annotations])
    is_right = np.array([a.label for a in annotations]) == trial.truth[rows]
    everyone = np.unique(annotators).tolist()
    true = [float(is_right[annotators == annotator].mean()) for annotator in everyone]
    estimated = [found.annotators[annotator] or 0.0 for annotator in everyone]
    ranked = [everyone[n] for n in np.argsort(estimated)]
    ranks = ", ".join(f"{name} is {ranked.index(name) + 1}." for name in everyone[-2:])
    return f"{spearmanr(estimated, true).statistic:.3f} (from below: {ranks} of {len(everyone)})"


def _dawid_skene(annotations: Sequence[ClassAnnotation], image_ids: Sequence[str]) -> Labels | None:
    """Return the labels that Dawid-Skene finds, or None if crowd-kit is not installed."""
    try:
        import pandas as pd
        from crowdkit.aggregation.classification.dawid_skene import DawidSkene
    except ImportError:
        return None
    table = pd.DataFrame(
        [(a.image_id, a.annotator, a.label) for a in annotations],
        columns=["task", "worker", "label"],
    )
    return np.array(DawidSkene(n_iter=50).fit_predict(table)[list(image_ids)])


TABLES: dict[str, tuple[str, Callable[[ConsensusTrial], Figures]]] = {
    "three": ("3 annotations each", partial(three_figures, has_unreliable=False)),
    "odd": (
        "3 annotations each, two annotators unreliable",
        partial(three_figures, has_unreliable=True),
    ),
    "single": ("1 annotation each", single_figures),
    "weights": ("points gained by weights, with 95 % intervals over 5 seeds", weight_figures),
}


if __name__ == "__main__":
    run(main)
