"""Measure the calibration error before and after scaling, and the effect on the choice of images.

    python -m scripts.research.bench_calibration --labels 100 500 --seeds 3

The temperature is fitted on the validation split, as in the loop; the calibration errors are
measured on the test split. "Same choice" is the number of images that are among the 100 least
confident of 5,000 pool images both before and after scaling.
"""

from __future__ import annotations

from statistics import mean

import numpy as np

from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.measures.calibration import expected_calibration_error, fit_temperature, rescale
from backend.network.training import Recipe
from scripts.research.experiment import Experiment, open_experiment, spread

CANDIDATES, BATCH = 5000, 100


def main() -> int:
    """Print a row for each number of labels."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 200, 500, 1000])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    settings = load_settings()
    experiment = open_experiment(settings, seed=settings.seed)
    recipe = Recipe(image_size=experiment.pool.image_size)
    print("| labels | temperature | error before | after | same choice |")
    for n_labels in arguments.labels:
        effects = [measure(experiment, recipe, n_labels, seed) for seed in range(arguments.seeds)]
        temperature, before, after, same = zip(*effects, strict=True)
        print(
            f"| {n_labels} | {spread(temperature, 2)} | {spread(before, 3)} | {spread(after, 3)} "
            f"| {mean(same):.0%} |",
            flush=True,
        )
    return 0


def measure(
    experiment: Experiment, recipe: Recipe, n_labels: int, seed: int
) -> tuple[float, float, float, float]:
    """Train once, fit the temperature, and measure on images that were used for neither.

    Returns the temperature, the expected calibration error before and after, and the share of
    chosen images that stays the same.
    """
    pool = experiment.pool
    state = experiment.train_balanced(n_labels, recipe, seed)
    validation, test, candidates = (
        experiment.predict(state, images, recipe.image_size).probs
        for images in (pool.validation.images, pool.test.images, pool.images[:CANDIDATES])
    )
    temperature = fit_temperature(validation, pool.validation.labels)
    chosen, chosen_before = (
        set(np.argsort(probs.max(axis=1), kind="stable")[:BATCH])
        for probs in (rescale(candidates, temperature), candidates)
    )
    return (
        temperature,
        expected_calibration_error(test, pool.test.labels),
        expected_calibration_error(rescale(test, temperature), pool.test.labels),
        len(chosen & chosen_before) / BATCH,
    )


if __name__ == "__main__":
    run(main)
