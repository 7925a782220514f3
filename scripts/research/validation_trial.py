"""Run a trial: hide the labels of a pool, estimate the accuracy of heads from a labeled sample, and
compare the estimates with the accuracy on all other images.

Like the loop, a trial labels batches of images that STRATEGY=auto chooses, and fits a head after
each batch. STAGES defines when accuracies are estimated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from backend.asking.query import Candidates, needs_model, resolve, select
from backend.base.arrays import Labels
from backend.base.labeling import Annotation, Task
from backend.images.validation_sample import draw_sample
from backend.measures.interval import interval_of
from backend.network.head import Head, cross_validated_probs, fit_head
from backend.people.validation_labels import PENDING, decide_label
from scripts.research.experiment import Rows
from scripts.research.hidden_pool import HiddenPool
from scripts.research.learning_curves import interval
from scripts.research.oracle import make_annotation

BATCH = 80  # training labels per batch; the other 20 of 100 tasks are for validation
STAGES = {240: 60, 800: 200}  # number of training labels: number of validation labels by then
TYPICAL_AMONG = 5000  # random images, because clustering the whole pool is slow
TRUE_LABELS, CROSS_VALIDATION = "true labels", "cross-validation"
SEVERAL, ONE = "two people, a third if they differ", "one person"


@dataclass(frozen=True)
class Estimate:
    """An estimate of a head's accuracy, and the accuracy itself."""

    seed: int
    labels: int  # how many the head was trained on
    method: str
    images: int  # how many the estimate is based on
    estimate: float
    accuracy: float  # on all images that were neither held out nor trained on
    wrong: float  # share of the labels used for the estimate that are wrong
    undecided: float  # share of the annotated images that remained undecided
    annotations: float  # per label


@dataclass(frozen=True, eq=False)
class Judged:
    """Images with the labels and predictions from which an accuracy is estimated."""

    rows: Rows
    labels: Labels
    predicted: Labels
    undecided: float = 0.0
    annotations: float = 1.0


def run_trial(pool: HiddenPool, seed: int) -> list[Estimate]:
    """Label images in batches, and return all estimates for all stages."""
    held_out = draw(pool.image_ids, seed)
    annotations = pool.truth[:, None]
    if pool.annotations is not None:
        annotations = np.random.default_rng(seed).permuted(pool.annotations, axis=1)
    free = np.setdiff1d(np.arange(len(pool.image_ids)), held_out)
    found = []
    for asked, head in train(pool, free, annotations[:, 0], seed):
        if (n_labels := STAGES.get(len(asked))) is None:
            continue
        predicted = head.probs(pool.embeddings).argmax(axis=1)
        first, others = held_out[:n_labels], np.setdiff1d(free, asked)
        accuracy = float((predicted[others] == pool.truth[others]).mean())
        judged = {
            TRUE_LABELS: Judged(first, pool.truth[first], predicted[first]),
            CROSS_VALIDATION: cross_validate(pool, asked, annotations[asked, 0], seed),
        }
        if pool.annotations is not None:
            judged[ONE] = Judged(first, annotations[first, 0], predicted[first])
            judged[SEVERAL] = label_by_several(annotations, held_out, n_labels, predicted)
        found += [
            Estimate(
                seed,
                len(asked),
                method,
                len(of.rows),
                float((of.predicted == of.labels).mean()),
                accuracy,
                float((of.labels != pool.truth[of.rows]).mean()),
                of.undecided,
                of.annotations,
            )
            for method, of in judged.items()
        ]
    return found


def train(pool: HiddenPool, free: Rows, labels: Labels, seed: int) -> Iterator[tuple[Rows, Head]]:
    """After each batch, yield the labeled rows in labeling order, and a head."""
    asked: Rows = np.empty(0, np.int64)
    head: Head | None = None
    while len(asked) < max(STAGES):
        rows = np.setdiff1d(free, asked)
        rng = np.random.default_rng([seed, len(asked)])
        strategy = resolve("auto", n_asked=len(asked), n_classes=pool.n_classes)
        if not needs_model(strategy):
            rows = np.sort(rng.permutation(rows)[:TYPICAL_AMONG])
        candidates = Candidates(
            image_ids=[pool.image_ids[row] for row in rows],
            probs=None if head is None else head.probs(pool.embeddings[rows]),
            embeddings=pool.embeddings[rows],
            asked=pool.embeddings[asked],
        )
        query = select(strategy, candidates, BATCH, rng)
        row_of = dict(zip(candidates.image_ids, rows.tolist(), strict=True))
        asked = np.append(asked, [row_of[image_id] for image_id in query.image_ids])
        head = fit_head(pool.embeddings[asked], labels[asked], pool.n_classes, head)
        yield asked, head


def cross_validate(pool: HiddenPool, rows: Rows, labels: Labels, seed: int) -> Judged:
    """Like the loop, predict each training image with a head that was not fitted to its label."""
    rng = np.random.default_rng(seed)
    probs = cross_validated_probs(pool.embeddings[rows], labels, pool.n_classes, rng)
    return Judged(rows, labels, probs.argmax(axis=1))


def label_by_several(
    annotations: NDArray[np.int64], held_out: Rows, n_labels: int, predicted: Labels
) -> Judged:
    """Have several people label held-out images in order until `n_labels` images have a label."""
    rows: list[int] = []
    labels: list[int] = []
    n_asked = n_annotations = 0
    for row in held_out.tolist():
        if len(rows) == n_labels:
            break
        label, n_people = decide(annotations[row].tolist())
        n_asked += 1
        n_annotations += n_people
        if label is not None:
            rows.append(row)
            labels.append(label)
    return Judged(
        np.array(rows),
        np.array(labels),
        predicted[rows],
        1 - len(rows) / n_asked,
        n_annotations / len(rows),
    )


def decide(choices: Sequence[int]) -> tuple[int | None, int]:
    """Return an image's label (None if undecided), and how many people annotated the image.

    People annotate the image in the order of `choices` until its label is decided.
    """
    given: list[Annotation] = []
    everyone = range(1, len(choices) + 2)  # and one more person who can still be asked
    outcome = PENDING
    for person, choice in zip(everyone, choices, strict=False):
        given.append(make_annotation(person, 1, person, str(choice)))
        task = Task(1, "i0", is_open=False, awaits_second_opinion=person == 1)
        outcome = decide_label(task, given, (), set(everyone), set(map(str, choices)))
        if outcome.state != "pending":
            break
    return (None if outcome.label is None else int(outcome.label)), len(given)


def draw(image_ids: Sequence[str], seed: int) -> Rows:
    """Return the rows of the validation sample in labeling order."""
    sample = draw_sample(image_ids, seed, max(STAGES.values()))
    assert sample is not None, "a trial has more images than its stages need"
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    return np.array([row_of[image_id] for image_id in sample.choose(image_ids)])


def summarize(estimates: Sequence[Estimate]) -> str:
    """Return a Markdown table with a row for each stage and method."""
    lines = [
        "| trained on | estimated from | interval contains the accuracy | estimate minus accuracy, "
        "points | mean distance | minus the estimate from true labels | wrong labels | undecided "
        "| annotations per label |",
        "|---" * 9 + "|",
    ]
    table = pd.DataFrame(estimates)
    for (labels, method), of in table.groupby(["labels", "method"], sort=False):
        error = 100 * (of.estimate - of.accuracy).to_numpy()
        reference = table[(table.labels == labels) & (table.method == TRUE_LABELS)]
        shift = 100 * (of.estimate.to_numpy() - reference.estimate.to_numpy())
        lines.append(
            f"| {labels:,} labels | {method}, {of.images.mean():.0f} images | {_held(of)} "
            f"| {_around(error)} | {np.abs(error).mean():.1f} | {_around(shift)} "
            f"| {of.wrong.mean():.1%} | {of.undecided.mean():.1%} | {of.annotations.mean():.2f} |"
        )
    return "\n".join(lines)


def _held(of: pd.DataFrame) -> str:
    """Report in how many trials the interval of the estimate contains the accuracy."""
    bounds = (interval_of(row.estimate, row.images) for row in of.itertuples())
    held = [
        low <= accuracy <= high for (low, high), accuracy in zip(bounds, of.accuracy, strict=True)
    ]
    return f"{sum(held)} of {len(held)}"


def _around(values: NDArray[np.float64]) -> str:
    mean, half = interval(values)
    return f"{mean:+.1f} ± {half:.1f}"
