"""Which recipe: what a model is worth, and costs, by image size, learning rate, tint and labels.

    python -m scripts.research.bench_recipe --sizes 64 --lrs 0.01 0.02 --labels 200 500

Trains with three seeds (--seeds) on random class-balanced images of POOL, starting from WEIGHTS,
and measures on the validation split: the test split is not for choices. Each seed draws others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean

import numpy as np
import torch

from backend.base.command_line import CommandParser, run
from backend.base.errors import TightloopError
from backend.base.progress import Progress
from backend.base.settings import load_settings
from backend.images.pool import Pool, open_pool, seed_labels
from backend.measures.evaluation import evaluate
from backend.network.device import find_device
from backend.network.inference import load_model, predict_probs
from backend.network.resnet import State
from backend.network.training import Recipe, train
from backend.store.weights import find_weights
from scripts.progress import progress_bar


@dataclass(frozen=True)
class Cell:
    """One training."""

    accuracy: float
    cpu_s: float  # of all cores together
    images_per_cpu_s: float  # when scoring


def main() -> int:
    """Print the table row by row; 1 where something is in the way."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 48, 64, 96])
    parser.add_argument("--lrs", type=float, nargs="+", default=[Recipe().lr])
    parser.add_argument("--tints", type=float, nargs="+", default=[Recipe().tint])
    parser.add_argument("--labels", type=int, nargs="+", default=[200, 500, 1000])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    try:
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
            weights = find_weights(settings.weights, settings.data_dir, progress=progress)
        print(f"{pool.name}, weights {weights.name}: accuracy on {len(pool.validation.labels):,}")
        print("validation images, its range over seeds / core-seconds of training\n")
        counts = [f"{n} labels" for n in arguments.labels]
        print(_row("px", "lr", "tint", *counts, "scored per core-s"))
        for values in product(arguments.sizes, arguments.lrs, arguments.tints):
            image_size, lr, tint = values
            recipe = Recipe(image_size=image_size, lr=lr, tint=tint)
            with progress_bar() as progress:
                cells = [
                    [
                        measure(pool, weights.state, recipe, n, seed, device, progress)
                        for seed in range(arguments.seeds)
                    ]
                    for n in arguments.labels
                ]
            speed = mean(cell.images_per_cpu_s for of_count in cells for cell in of_count)
            print(_row(*values, *map(_summary, cells), f"{speed:,.0f}"), flush=True)
    except TightloopError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def measure(
    pool: Pool,
    start: State | None,
    recipe: Recipe,
    n_labels: int,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Cell:
    """Train once on `n_labels` images that `seed` draws, and measure on the validation split."""
    began = time.process_time()
    state = train_on(pool, start, recipe, n_labels, seed, device, progress)
    trained = time.process_time()
    probs = predict_probs(
        load_model(state, len(pool.classes), device),
        pool.validation.images,
        image_size=recipe.image_size,
        device=device,
        on_batch=lambda done, total: progress("validating", done, total),
    )
    scored = time.process_time()
    return Cell(
        evaluate(probs, pool.validation.labels).accuracy,
        trained - began,
        len(probs) / (scored - trained),
    )


def train_on(
    pool: Pool,
    start: State | None,
    recipe: Recipe,
    n_labels: int,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> State:
    """The weights that `n_labels` class-balanced images, drawn by `seed`, lead to."""
    labels = seed_labels(pool, n_labels, seed)
    return train(
        pool.images[pool.positions(list(labels))],
        np.array([pool.classes.index(label) for label in labels.values()]),
        n_classes=len(pool.classes),
        start=start,
        recipe=recipe,
        may_flip=pool.may_flip,
        seed=seed,
        device=device,
        on_step=lambda done, total: progress(f"training on {n_labels} labels", done, total),
    )


def _summary(cells: Sequence[Cell]) -> str:
    found = [100 * cell.accuracy for cell in cells]
    cpu_s = mean(cell.cpu_s for cell in cells)
    return f"{mean(found):.1f} % ({min(found):.1f} - {max(found):.1f}) / {cpu_s:.0f}"


def _row(*values: object) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


if __name__ == "__main__":
    run(main)
