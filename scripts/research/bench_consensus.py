"""What consensus is worth on real people's answers: against the majority and Dawid-Skene.

    python -m scripts.research.bench_consensus --annotators annotators.csv.xz --tables three odd

Deals the answers to simulated people (crowd.py). The model's opinion of an image comes from a fold
that never saw its answers; --train head fits heads on the pre-trained body, full fine-tunes.
The comparison with Dawid-Skene wants crowd-kit: pip install --no-deps crowd-kit attrs
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from backend.base.arrays import Embeddings, Labels, Probs, Scores
from backend.base.command_line import CommandParser, run
from backend.base.errors import SettingsError, TightloopError
from backend.base.settings import load_settings
from backend.images.pool import Pool, open_pool, true_labels
from backend.network import resnet
from backend.network.device import find_device
from backend.network.head import fit_head
from backend.network.inference import load_model, predict, predict_probs
from backend.network.training import Recipe, train
from backend.people.consensus import ClassAnnotation, Consensus, find_consensus
from backend.store.weights import find_weights
from scripts.progress import progress_bar
from scripts.research.crowd import Crowd, real_answers
from scripts.research.learning_curves import interval

Rows = NDArray[np.int64]
# Labels and rows to learn from, rows to judge -> what the model thinks of those.
Judge = Callable[[Labels, Rows, Rows], Probs]


def main() -> int:
    """Print the table row by row; 1 where something is in the way."""
    arguments = _parser().parse_args()
    try:
        if not Path(arguments.annotators).is_file():
            raise SettingsError(f"--annotators {arguments.annotators}: no such file")
        settings = load_settings()
        device = find_device(settings.device)
        with progress_bar() as progress:
            pool = open_pool(
                settings.pool,
                settings.data_dir,
                seed=settings.seed,
                max_pixels=settings.max_image_pixels,
                progress=progress,
            )
            real = real_answers(arguments.annotators, pool)
            start = find_weights(settings.weights, settings.data_dir, progress=progress)
        print(
            f"{pool.name}, weights {start.name}, {arguments.train}, {arguments.folds} folds, "
            f"{len(real):,} images, {arguments.people} people"
        )
        embeddings, validation = _embeddings(pool, start.state, settings.image_size, device)
        judge = {
            "head": _heads(embeddings, len(pool.classes)),
            "full": _trainings(
                pool, start.state, settings.image_size, arguments.epochs, arguments.seed, device
            ),
        }[arguments.train]
        position = {name: n for n, name in enumerate(pool.classes)}
        truth = np.array([position[label] for label in true_labels(pool).values()])
        guesses = _early_guesses(embeddings, truth, len(pool.classes), arguments.seed)
        bench = Bench(
            pool,
            real,
            truth,
            guesses,
            embeddings,
            validation,
            judge,
            arguments.people,
            arguments.folds,
            arguments.seed,
        )
        for table in arguments.tables:
            TABLES[table](bench)
    except TightloopError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True)
class Bench:
    """What all tables share."""

    pool: Pool
    real: Mapping[str, Sequence[str]]
    truth: Labels  # (images,), in the pool's order as all that follows
    guesses: Labels  # what a model shows people
    embeddings: Embeddings
    validation: Embeddings
    judge: Judge
    people: int
    folds: int
    seed: int


def measure_three(bench: Bench, *, has_odd: bool) -> None:
    """Three answers to each image: consensus against the majority, and what it thinks of people."""
    pool, truth = bench.pool, bench.truth
    everything = range(len(pool.image_ids))
    answers = deal(bench, [3] * len(everything), everything, has_odd=has_odd)
    majority = find_consensus(answers, {})
    probs = _cross(bench, majority)
    began = time.perf_counter()
    found = find_consensus(answers, dict(zip(pool.image_ids, probs, strict=True)))
    seconds = time.perf_counter() - began
    print(f"\n3 answers each{', two people odd' if has_odd else ''}")
    _print("model's own error, never having seen the answers", _error(probs.argmax(1), truth))
    _print("majority's error", _error(_labels(majority, pool), truth))
    _print("Dawid-Skene's error", _dawid_skene(answers, pool, truth))
    _print("CROWDLAB's error", _error(_labels(found, pool), truth))
    _print("people's quality: rank correlation", _people(answers, found, truth, pool))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    _print("consensus takes", f"{seconds:.1f} s; peak of this process {peak:,.0f} MB")


def measure_single(bench: Bench) -> None:
    """One answer to each image: whether wrong ones are found."""
    everything = range(len(bench.pool.image_ids))
    answers = deal(bench, [1] * len(everything), everything, has_odd=False)
    probs = _cross(bench, find_consensus(answers, {}))
    found = find_consensus(answers, dict(zip(bench.pool.image_ids, probs, strict=True)))
    quality = found.quality[_rows(found, bench.pool)]
    is_wrong = _labels(found, bench.pool) != bench.truth
    print("\n1 answer each")
    _print("wrong answers", f"{is_wrong.mean():.1%}")
    _print("model's own error, never having seen the answers", _error(probs.argmax(1), bench.truth))
    _print("label errors: AUROC of the ranking", f"{roc_auc_score(is_wrong, -quality):.3f}")


def measure_weights(bench: Bench) -> None:
    """How much a label should weigh: heads on few images, every fourth answered twice, measured on
    the validation split as points gained over labels that all weigh the same.
    """
    print("\npoints gained by weights, with 95 % intervals over 5 seeds")
    for n_images, is_careful in product((700, 1600), (False, True)):
        gains = np.array(
            [_gains(bench, n_images, seed, is_careful=is_careful) for seed in range(5)]
        )
        around = [interval(of_seeds) for of_seeds in 100 * gains.T]
        people = "careful people" if is_careful else "that crowd, two odd"
        _print(
            f"{n_images:,} images, {people}",
            ", ".join(
                f"{name} {mean:+.1f} ± {half:.1f}"
                for name, (mean, half) in zip(
                    ("quality", "model alone", "soft labels"), around, strict=True
                )
            ),
        )


def _gains(bench: Bench, n_images: int, seed: int, *, is_careful: bool) -> list[float]:
    """What a head gains by three kinds of weights."""
    pool, n_classes = bench.pool, len(bench.pool.classes)
    rng = np.random.default_rng([bench.seed, seed])
    rows = np.sort(rng.permutation(len(pool.image_ids))[:n_images])
    truths = {pool.image_ids[row]: [pool.classes[bench.truth[row]]] * 3 for row in rows}
    chosen = replace(bench, real=truths if is_careful else bench.real, people=10, seed=seed)
    n_answers = np.where(np.arange(n_images) % 4 == 0, 2, 1)
    answers = deal(chosen, n_answers.tolist(), rows.tolist(), has_odd=not is_careful)
    given = find_consensus(answers, {})
    rows = np.array(pool.positions(given.image_ids))
    opinions = np.empty((n_images, n_classes), np.float32)
    for fold in np.array_split(rng.permutation(n_images), 5):
        others = np.setdiff1d(np.arange(n_images), fold)
        head = fit_head(bench.embeddings[rows[others]], given.labels[others], n_classes)
        opinions[fold] = head.probs(bench.embeddings[rows[fold]])
    found = find_consensus(answers, dict(zip(given.image_ids, opinions, strict=True)))
    model_alone = opinions[np.arange(n_images), found.labels]

    def accuracy(copies: Rows, labels: Labels, weights: Scores | None) -> float:
        embeddings = bench.embeddings[rows[copies]]
        head = fit_head(embeddings, labels, n_classes, None, weights)
        favourite = head.probs(bench.validation).argmax(axis=1)
        return float((favourite == pool.validation.labels).mean())

    once = np.arange(n_images)
    soft = np.full((n_images, n_classes), (1 - found.quality[:, None]) / (n_classes - 1))
    soft[once, found.labels] = found.quality
    every, labels = np.repeat(once, n_classes), np.tile(np.arange(n_classes), n_images)
    same = accuracy(once, found.labels, None)
    return [
        accuracy(once, found.labels, found.quality) - same,
        accuracy(once, found.labels, model_alone) - same,
        accuracy(every, labels, soft.ravel().astype(np.float32)) - same,
    ]


def deal(
    bench: Bench, n_answers: Sequence[int], rows: Sequence[int], *, has_odd: bool
) -> list[ClassAnnotation]:
    """So many answers to each of these images, by people who are picked at random."""
    pool = bench.pool
    position = {name: n for n, name in enumerate(pool.classes)}
    rng = np.random.default_rng([bench.seed, sum(n_answers), has_odd])
    crowd = Crowd(bench.real, pool.classes, bench.people, rng, has_odd=has_odd)
    answers: list[ClassAnnotation] = []
    for row, count in zip(rows, n_answers, strict=True):
        image_id, guess = pool.image_ids[row], int(bench.guesses[row])
        said: set[int | None] = set()
        for _ in range(count):
            person = crowd.pick(said)
            said.add(person)
            label = crowd.answer(person, image_id, pool.classes[guess])
            answers.append(
                ClassAnnotation(image_id, person, position[label], f"{len(answers):09d}")
            )
    return answers


def _cross(bench: Bench, labels: Consensus) -> Probs:
    """What models think of each image that learned from the labels of the other folds alone."""
    n_images = len(bench.pool.image_ids)
    given = _labels(labels, bench.pool)
    probs = np.empty((n_images, len(bench.pool.classes)), np.float32)
    shuffled = np.random.default_rng(bench.seed).permutation(n_images)
    n_judged = 0
    with progress_bar() as progress:
        for fold in np.array_split(shuffled, bench.folds):
            progress("judging all folds", n_judged, n_images)
            others = np.setdiff1d(np.arange(n_images), fold)
            probs[fold] = bench.judge(given[others], others, fold)
            n_judged += len(fold)
        progress("judging all folds", n_judged, n_images)
    return probs


def _heads(embeddings: Embeddings, n_classes: int) -> Judge:
    def judge(labels: Labels, others: Rows, fold: Rows) -> Probs:
        return fit_head(embeddings[others], labels, n_classes).probs(embeddings[fold])

    return judge


def _trainings(
    pool: Pool,
    start: Mapping[str, torch.Tensor] | None,
    image_size: int,
    epochs: int,
    seed: int,
    device: torch.device,
) -> Judge:
    def judge(labels: Labels, others: Rows, fold: Rows) -> Probs:
        with progress_bar() as progress:
            state = train(
                pool.images[others],
                labels,
                n_classes=len(pool.classes),
                start=start,
                recipe=Recipe(image_size=image_size, epochs=epochs),
                may_flip=pool.may_flip,
                seed=seed,
                device=device,
                on_step=lambda done, total: progress("training a fold", done, total),
            )
            model = load_model(state, len(pool.classes), device)
            return predict_probs(
                model,
                pool.images[fold],
                image_size=image_size,
                device=device,
                on_batch=lambda done, total: progress("judging a fold", done, total),
            )

    return judge


def _embeddings(
    pool: Pool,
    start: Mapping[str, torch.Tensor] | None,
    image_size: int,
    device: torch.device,
) -> tuple[Embeddings, Embeddings]:
    """The pre-trained body's, of the pool and of the validation split."""
    model = load_model(
        resnet.build(len(pool.classes), start, seed=0).state_dict(), len(pool.classes), device
    )
    with progress_bar() as progress:
        whole, validation = (
            predict(
                model,
                images,
                image_size=image_size,
                device=device,
                on_batch=lambda done, total: progress("embedding the pool", done, total),
            ).embeddings
            for images in (pool.images, pool.validation.images)
        )
    return whole, validation


def _early_guesses(embeddings: Embeddings, truth: Labels, n_classes: int, seed: int) -> Labels:
    """What a head that learned from 500 images would show people."""
    known = np.random.default_rng(seed).permutation(len(truth))[:500]
    head = fit_head(embeddings[known], truth[known], n_classes)
    return head.probs(embeddings).argmax(axis=1)


def _people(answers: Sequence[ClassAnnotation], found: Consensus, truth: Labels, pool: Pool) -> str:
    """Spearman's correlation of estimated with true quality, and the last two people's places."""
    row = {image_id: n for n, image_id in enumerate(pool.image_ids)}
    right: dict[int, list[bool]] = {}
    for answer in answers:
        if answer.annotator is not None:
            is_right = bool(answer.label == truth[row[answer.image_id]])
            right.setdefault(answer.annotator, []).append(is_right)
    people = sorted(right)
    estimated = [found.annotators[person] or 0.0 for person in people]
    real = [float(np.mean(right[person])) for person in people]
    ranked = [people[n] for n in np.argsort(estimated)]
    places = ", ".join(f"{person} is {ranked.index(person) + 1}." for person in people[-2:])
    return f"{spearmanr(estimated, real).statistic:.3f} (from below: {places} of {len(people)})"


def _dawid_skene(answers: Sequence[ClassAnnotation], pool: Pool, truth: Labels) -> str:
    try:
        import pandas as pd
        from crowdkit.aggregation.classification.dawid_skene import DawidSkene
    except ImportError:
        return "(pip install --no-deps crowd-kit attrs)"
    table = pd.DataFrame(
        [(a.image_id, a.annotator, a.label) for a in answers], columns=["task", "worker", "label"]
    )
    found = DawidSkene(n_iter=50).fit_predict(table)
    return _error(np.array([found[image_id] for image_id in pool.image_ids]), truth)


def _labels(found: Consensus, pool: Pool) -> Labels:
    """In the pool's order."""
    return found.labels[_rows(found, pool)]


def _rows(found: Consensus, pool: Pool) -> Rows:
    return np.argsort(pool.positions(found.image_ids))


def _error(labels: Labels, truth: Labels) -> str:
    return f"{(labels != truth).mean():.2%}"


def _print(name: str, value: str) -> None:
    print(f"{name:52} {value}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--annotators", required=True, help="image, annotator_1, annotator_2, …")
    parser.add_argument("--tables", choices=TABLES, nargs="+", default=list(TABLES))
    parser.add_argument("--train", choices=["head", "full"], default="head")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="of each fold's training")
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser


TABLES: dict[str, Callable[[Bench], None]] = {
    "three": partial(measure_three, has_odd=False),
    "odd": partial(measure_three, has_odd=True),
    "single": measure_single,
    "weights": measure_weights,
}


if __name__ == "__main__":
    run(main)
