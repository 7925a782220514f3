"""Compare consensus on real annotations with the majority and with Dawid-Skene.

    python -m scripts.research.bench_consensus --annotators annotators.csv.xz --tables three odd

Hands the annotations out by a simulated crowd (scripts/research/crowd.py). The model's opinion of
an image comes from a fold that never saw its annotations: --train head fits heads on the
pre-trained body, full fine-tunes. For the comparison with Dawid-Skene install crowd-kit:
pip install --no-deps crowd-kit attrs
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from backend.base.arrays import Labels
from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.people.consensus import ClassAnnotation, Consensus, find_consensus
from scripts.research.bench_label_weights import weight_figures
from scripts.research.consensus_trial import ConsensusTrial, cross_validate
from scripts.research.crowd import Crowd, real_annotations
from scripts.research.experiment import Rows, open_experiment

Figures = dict[str, str]


def main() -> int:
    """Print one table after the other."""
    arguments = _parser().parse_args()
    settings = load_settings()
    experiment = open_experiment(settings, seed=settings.seed)
    trial = ConsensusTrial(
        experiment,
        real_annotations(arguments.annotators, experiment.pool),
        settings.image_size,
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


def three_figures(trial: ConsensusTrial, *, has_unreliable: bool) -> Figures:
    """Return how well consensus finds labels and rates annotators; 3 annotations per image."""
    annotations = _annotate_all(trial, 3, has_unreliable=has_unreliable)
    majority, opinions, found, seconds = _find(trial, annotations)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "model's own error, never having seen the annotations": _error(opinions, trial),
        "majority's error": _error(majority, trial),
        "Dawid-Skene's error": _dawid_skene(annotations, trial),
        "CROWDLAB's error": _error(found.labels[_order(found, trial)], trial),
        "annotators' quality: rank correlation": _rank_annotators(annotations, found, trial),
        "consensus takes": f"{seconds:.1f} s; peak of this process {peak_mb:,.0f} MB",
    }


def single_figures(trial: ConsensusTrial) -> Figures:
    """Return how well wrong annotations are found with one annotation per image."""
    _, opinions, found, _ = _find(trial, _annotate_all(trial, 1, has_unreliable=False))
    quality = found.quality[_order(found, trial)]
    is_wrong = found.labels[_order(found, trial)] != trial.truth
    return {
        "wrong annotations": f"{is_wrong.mean():.1%}",
        "model's own error, never having seen the annotations": _error(opinions, trial),
        "label errors: AUROC of the ranking": f"{roc_auc_score(is_wrong, -quality):.3f}",
    }


def _annotate_all(
    trial: ConsensusTrial, times: int, *, has_unreliable: bool
) -> list[ClassAnnotation]:
    n_images = len(trial.truth)
    rng = np.random.default_rng([trial.seed, times * n_images, has_unreliable])
    crowd = Crowd(
        trial.real, trial.pool.classes, trial.n_annotators, rng, has_unreliable=has_unreliable
    )
    return trial.annotate(crowd, np.full(n_images, times), np.arange(n_images))


def _find(
    trial: ConsensusTrial, annotations: Sequence[ClassAnnotation]
) -> tuple[Labels, Labels, Consensus, float]:
    """Return the majority's and the models' labels in the pool's order, the consensus of both, and
    the seconds that it took.
    """
    majority = find_consensus(annotations, {})
    labels = majority.labels[_order(majority, trial)]
    rows, rng = np.arange(len(labels)), np.random.default_rng(trial.seed)
    probs = cross_validate(trial.judge, labels, rows, trial.folds, rng)
    by_image = dict(zip(trial.pool.image_ids, probs, strict=True))
    began = time.perf_counter()
    found = find_consensus(annotations, by_image)
    return labels, probs.argmax(axis=1), found, time.perf_counter() - began


def _rank_annotators(
    annotations: Sequence[ClassAnnotation], found: Consensus, trial: ConsensusTrial
) -> str:
    """Return Spearman's correlation of estimated and true quality, and the last two's ranks."""
    rows = trial.pool.positions([a.image_id for a in annotations])
    annotators = np.array([a.annotator for a in annotations])
    is_right = np.array([a.label for a in annotations]) == trial.truth[rows]
    everyone = np.unique(annotators).tolist()
    true = [float(is_right[annotators == annotator].mean()) for annotator in everyone]
    estimated = [found.annotators[annotator] or 0.0 for annotator in everyone]
    ranked = [everyone[n] for n in np.argsort(estimated)]
    ranks = ", ".join(f"{name} is {ranked.index(name) + 1}." for name in everyone[-2:])
    return f"{spearmanr(estimated, true).statistic:.3f} (from below: {ranks} of {len(everyone)})"


def _dawid_skene(annotations: Sequence[ClassAnnotation], trial: ConsensusTrial) -> str:
    try:
        import pandas as pd
        from crowdkit.aggregation.classification.dawid_skene import DawidSkene
    except ImportError:
        return "(pip install --no-deps crowd-kit attrs)"
    table = pd.DataFrame(
        [(a.image_id, a.annotator, a.label) for a in annotations],
        columns=["task", "worker", "label"],
    )
    found = DawidSkene(n_iter=50).fit_predict(table)
    return _error(np.array([found[image_id] for image_id in trial.pool.image_ids]), trial)


def _order(found: Consensus, trial: ConsensusTrial) -> Rows:
    """Return the positions that sort a consensus of the whole pool into the pool's order."""
    return np.argsort(trial.pool.positions(found.image_ids))


def _error(labels: Labels, trial: ConsensusTrial) -> str:
    return f"{(labels != trial.truth).mean():.2%}"


TABLES: dict[str, tuple[str, Callable[[ConsensusTrial], Figures]]] = {
    "three": ("3 annotations each", partial(three_figures, has_unreliable=False)),
    "odd": (
        "3 annotations each, two annotators unreliable",
        partial(three_figures, has_unreliable=True),
    ),
    "single": ("1 annotation each", single_figures),
    "weights": ("points gained by weights, with 95 % intervals over 5 seeds", weight_figures),
}


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--annotators", required=True, help="CSV: image, annotator_1, …")
    parser.add_argument("--tables", choices=TABLES, nargs="+", default=list(TABLES))
    parser.add_argument("--train", choices=["head", "full"], default="head")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="of each fold's training")
    parser.add_argument("--people", type=int, default=30, help="how many the crowd has")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    run(main)
