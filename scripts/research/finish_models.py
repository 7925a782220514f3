"""Train models on labels that a simulated loop collects, and save their predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from backend.asking.query import Candidates, needs_model, resolve, select
from backend.base.arrays import Probs
from backend.network.head import Head, fit_head
from backend.network.training import Recipe
from scripts.research.experiment import Experiment, Rows
from scripts.research.hidden_pool import HiddenPool
from scripts.research.validation_trial import TYPICAL_AMONG

MAX_VALIDATION = 2000
# How many labels the loop has after each batch. The batches are larger than usual, to save time.
LABEL_COUNTS = (0, 100, 200, 350, 500, 750, 1000, 1500, 2000)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model's uncalibrated predictions for all images in a pool."""

    asked: Rows  # the images it was trained on
    held_out: Rows  # the validation images, in random order
    probs: Probs


def train_heads(pool: HiddenPool, seed: int) -> Iterator[TrainedModel]:
    """Label images that STRATEGY=auto chooses, and yield a head for each of LABEL_COUNTS.

    A pool with fewer than 4 x MAX_VALIDATION images holds out a quarter of them.
    """
    n_images = len(pool.image_ids)
    shuffled = np.random.default_rng(seed).permutation(n_images)
    held_out, free = np.split(shuffled, [min(MAX_VALIDATION, n_images // 4)])
    asked: Rows = np.empty(0, np.int64)
    head: Head | None = None
    for before, after in pairwise(LABEL_COUNTS):
        rows = np.setdiff1d(free, asked)
        if len(rows) < after - before:
            return
        rng = np.random.default_rng([seed, before])
        strategy = resolve("auto", n_asked=before, n_classes=pool.n_classes)
        if not needs_model(strategy):
            rows = np.sort(rng.permutation(rows)[:TYPICAL_AMONG])
        candidates = Candidates(
            image_ids=[str(row) for row in rows],
            probs=None if head is None else head.probs(pool.embeddings[rows]),
            embeddings=pool.embeddings[rows],
            asked=pool.embeddings[asked],
        )
        query = select(strategy, candidates, after - before, rng)
        asked = np.append(asked, np.array(query.image_ids, dtype=np.int64))
        head = fit_head(pool.embeddings[asked], pool.truth[asked], pool.n_classes, head)
        yield TrainedModel(asked, held_out, head.probs(pool.embeddings))


def fine_tune(
    experiment: Experiment, pool: HiddenPool, model: TrainedModel, seed: int
) -> TrainedModel:
    """Train the whole network on the labels that a head was trained on."""
    splits = (experiment.pool.images, experiment.pool.validation.images)
    pixels = np.concatenate([images[:] for images in splits])  # rows match `pool`
    whole = replace(experiment, pool=replace(experiment.pool, images=pixels))
    recipe = Recipe(image_size=experiment.pool.image_size)
    state = whole.train(model.asked, pool.truth[model.asked], recipe, seed)
    return replace(model, probs=whole.predict(state, pixels, recipe.image_size).probs)


def save_model(path: Path, model: TrainedModel) -> None:
    """Write a model's predictions to a file atomically."""
    draft = path.with_suffix(".draft.npz")
    np.savez(draft, asked=model.asked, held_out=model.held_out, probs=model.probs)
    draft.replace(path)


def load_model(path: Path) -> TrainedModel:
    """Read what `save_model` wrote."""
    with np.load(path) as kept:
        return TrainedModel(kept["asked"], kept["held_out"], kept["probs"])
