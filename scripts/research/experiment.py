"""Open the pool, weights and device that the settings name, for training in benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray

from backend.base.arrays import Images, Labels
from backend.base.settings import Settings
from backend.images.known_labels import seed_labels
from backend.images.pool import Pool, open_pool
from backend.network.device import find_device
from backend.network.inference import Outputs, load_model, predict
from backend.network.resnet import State
from backend.network.training import Recipe, train
from backend.store.weights import PretrainedWeights, find_weights
from scripts.console.progress_bars import progress_bar

Rows = NDArray[np.int64]  # (images,), positions in the pool


@dataclass(frozen=True)
class Experiment:
    """The pool, the weights and the device of a benchmark."""

    pool: Pool
    weights: PretrainedWeights
    device: torch.device

    def train(self, rows: Rows, labels: Labels, recipe: Recipe, seed: int) -> State:
        """Fine-tune the pre-trained weights on these images from the pool."""
        with progress_bar() as progress:
            return train(
                self.pool.images[rows],
                labels,
                n_classes=len(self.pool.classes),
                start=self.weights.state,
                recipe=recipe,
                may_flip=self.pool.may_flip,
                seed=seed,
                device=self.device,
                on_step=partial(progress, f"training on {len(rows):,} labels"),
            )

    def train_balanced(self, n_labels: int, recipe: Recipe, seed: int) -> State:
        """Fine-tune on `n_labels` class-balanced images with their true labels, drawn by `seed`."""
        labels = seed_labels(self.pool, n_labels, seed)
        classes = np.array([self.pool.classes.index(label) for label in labels.values()])
        return self.train(self.pool.positions(list(labels)), classes, recipe, seed)

    def predict(self, state: State, images: Images, image_size: int) -> Outputs:
        """Return class probabilities and embeddings of images of the same size."""
        with progress_bar() as progress:
            return predict(
                load_model(state, len(self.pool.classes), self.device),
                images,
                image_size=image_size,
                device=self.device,
                on_batch=partial(progress, "scoring"),
            )


def spread(values: Sequence[float], digits: int, unit: str = "") -> str:
    """Return the mean and range over seeds as text, with the unit."""
    low, high = (f"{end(values):.{digits}f}" for end in (min, max))
    return f"{mean(values):.{digits}f}{unit} ({low} - {high})"


def open_experiment(settings: Settings, *, seed: int) -> Experiment:
    """Open the experiment, and print notices about the pool and the weights."""
    with progress_bar() as progress:
        pool = open_pool(
            settings.pool,
            settings.data_dir,
            seed=seed,
            image_size=settings.image_size,
            classes=settings.classes,
            image_hosts=settings.image_hosts,
            max_pixels=settings.max_image_pixels,
            progress=progress,
        )
        weights = find_weights(settings.weights, settings.data_dir, progress=progress)
    for notice in filter(None, (pool.notice, weights.notice)):
        print(f"NOTE      {notice}")
    return Experiment(pool, weights, find_device(settings.device))
