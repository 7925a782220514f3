"""Compare the accuracy and cost of recipes: image sizes, learning rates and label counts.

    python -m scripts.research.bench_recipe --sizes 64 --lrs 0.01 0.02 --labels 200 500

Trains on random class-balanced images from POOL, starting from WEIGHTS, once per seed; each seed
draws different images. Prints the accuracy on the validation split (the test split is never used
for choices) with its range over seeds, and the core-seconds of training.
"""

from __future__ import annotations

import time
from itertools import product
from statistics import mean

from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.measures.evaluation import evaluate
from backend.network.training import Recipe
from scripts.research.experiment import Experiment, open_experiment, spread


def main() -> int:
    """Print the table row by row."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 48, 64, 96], help="in pixels")
    parser.add_argument("--lrs", type=float, nargs="+", default=[Recipe().lr])
    parser.add_argument("--tints", type=float, nargs="+", default=[Recipe().color_jitter])
    parser.add_argument("--labels", type=int, nargs="+", default=[200, 500, 1000])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    settings = load_settings()
    experiment = open_experiment(settings, seed=settings.seed)
    print(
        f"{experiment.pool.name}, weights {experiment.weights.name}: accuracy on "
        f"{len(experiment.pool.validation.labels):,}\n"
        "validation images, its range over seeds / core-seconds of training\n"
    )
    counts = [f"{n} labels" for n in arguments.labels]
    print(_row("px", "lr", "tint", *counts, "scored per core-s"))
    for values in product(arguments.sizes, arguments.lrs, arguments.tints):
        image_size, lr, tint = values
        recipe = Recipe(image_size=image_size, lr=lr, color_jitter=tint)
        cells: list[str] = []
        speeds: list[float] = []
        for n_labels in arguments.labels:
            runs = [measure(experiment, recipe, n_labels, seed) for seed in range(arguments.seeds)]
            accuracies, training_s, scored_per_s = zip(*runs, strict=True)
            cells.append(f"{spread(accuracies, 1, ' %')} / {mean(training_s):.0f}")
            speeds += scored_per_s
        print(_row(*values, *cells, f"{mean(speeds):,.0f}"), flush=True)
    return 0


def measure(
    experiment: Experiment, recipe: Recipe, n_labels: int, seed: int
) -> tuple[float, float, float]:
    """Train once and evaluate on the validation split.

    Returns the accuracy in %, the core-seconds of training, and the images scored per core-second.
    """
    validation = experiment.pool.validation
    began = time.process_time()
    state = experiment.train_balanced(n_labels, recipe, seed)
    trained = time.process_time()
    probs = experiment.predict(state, validation.images, recipe.image_size).probs
    scored = time.process_time()
    return (
        100 * evaluate(probs, validation.labels).accuracy,
        trained - began,
        len(probs) / (scored - trained),
    )


def _row(*values: object) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


if __name__ == "__main__":
    run(main)
