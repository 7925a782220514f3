"""How far confidence is off, before and after its temperature, and what that does to the choice.

    python -m scripts.research.bench_calibration --labels 100 500 --seeds 3

The temperature is fitted to the validation split, as in the loop; the errors are those on the test
split, which it has not seen. The choice is the 100 least confident of 5,000 images of the pool.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch

from backend.base.command_line import CommandParser, run
from backend.base.errors import TightloopError
from backend.base.progress import Progress
from backend.base.settings import load_settings
from backend.images.pool import Pool, open_pool
from backend.measures.calibration import expected_calibration_error, fit_temperature, rescale
from backend.network.device import find_device
from backend.network.inference import Images, load_model, predict_probs
from backend.network.resnet import State
from backend.network.training import Recipe
from backend.store.weights import find_weights
from scripts.progress import progress_bar
from scripts.research.bench_recipe import train_on

CANDIDATES, BATCH = 5000, 100


@dataclass(frozen=True)
class Found:
    """One training."""

    temperature: float
    before: float
    after: float
    same: float  # share of the choice that stays


def main() -> int:
    """Print a row per number of labels; 1 where something is in the way."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 200, 500, 1000])
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
        recipe = Recipe(image_size=settings.image_size)
        print("| labels | temperature | error before | after | same choice |")
        for n_labels in arguments.labels:
            with progress_bar() as progress:
                found = [
                    measure(pool, weights.state, recipe, n_labels, seed, device, progress)
                    for seed in range(arguments.seeds)
                ]
            print(
                f"| {n_labels} | {_range([f.temperature for f in found], 2)} "
                f"| {_range([f.before for f in found], 3)} | {_range([f.after for f in found], 3)} "
                f"| {mean(f.same for f in found):.0%} |",
                flush=True,
            )
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
) -> Found:
    """Train once, fit the temperature, and look at images that neither has seen."""
    state = train_on(pool, start, recipe, n_labels, seed, device, progress)
    model = load_model(state, len(pool.classes), device)

    def score(images: Images) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return predict_probs(
            model,
            images,
            image_size=recipe.image_size,
            device=device,
            on_batch=lambda done, total: progress("scoring", done, total),
        )

    temperature = fit_temperature(score(pool.validation.images), pool.validation.labels)
    raw = score(pool.test.images)
    candidates = score(pool.images[:CANDIDATES])
    chosen, chosen_raw = (
        set(np.argsort(probs.max(axis=1), kind="stable")[:BATCH])
        for probs in (rescale(candidates, temperature), candidates)
    )
    return Found(
        temperature,
        expected_calibration_error(raw, pool.test.labels),
        expected_calibration_error(rescale(raw, temperature), pool.test.labels),
        len(chosen & chosen_raw) / BATCH,
    )


def _range(values: Sequence[float], digits: int) -> str:
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


if __name__ == "__main__":
    run(main)
