"""Measure the cost of the loop, as ratios within one run if possible, otherwise in seconds.

    python -m scripts.research.bench --quick

Prints a table and writes var/bench.json. POOL, WEIGHTS and IMAGE_SIZE come from the settings.
Without --quick it also starts a whole stack in var/bench, which it removes afterwards.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from timeit import timeit

import numpy as np
import torch

from backend.asking.query import Candidates, resolve, select
from backend.base.command_line import CommandParser, run
from backend.base.settings import load_settings
from backend.base.strategy_names import STRATEGIES
from scripts.research.bench_backend import backend_figures
from scripts.research.bench_circle import circle_figures
from scripts.research.bench_model import scoring_ratio, training_ratio
from scripts.research.bench_refit import refit_figures
from scripts.research.figure import Figure, announce
from scripts.research.random_project import random_probs

ROOT = Path(__file__).resolve().parents[2]
WIDTH, CENTERS, N_POOL, N_QUERIED, BATCH = 512, 50, 50_000, 2_000, 100


def main() -> int:
    """Measure everything."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out heads at many annotations, and the circle on a whole stack",
    )
    arguments = parser.parse_args()
    size, device = load_settings().image_size, "cuda" if torch.cuda.is_available() else "cpu"
    figures = [*model_figures(size, device), *choice_figures(), *backend_figures(size, device)]
    if not arguments.quick:
        figures += [*refit_figures(), *circle_figures()]
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    width = max(len(figure.name) for figure in figures)
    print(f"\n{name}, {os.cpu_count()} cores")
    for figure in figures:
        print(f"{figure.name:<{width}}  {figure.value:<40}  {figure.target}")
    report = {"device": name, "figures": [vars(figure) for figure in figures]}
    (ROOT / "var").mkdir(exist_ok=True)
    (ROOT / "var/bench.json").write_text(json.dumps(report, indent=2))
    return 0


def model_figures(image_size: int, device: str) -> list[Figure]:
    """Measure what feeding the model costs."""
    announce("measuring what feeding the model costs")
    scoring, training = scoring_ratio(image_size, device), training_ratio(image_size, device)
    return [
        Figure("scoring the pool, over bare forward", f"{scoring:.2f}", ">= 0.9"),
        Figure("training steps, over a bare loop", f"{training:.2f}", ">= 0.9"),
    ]


def choice_figures() -> list[Figure]:
    """Measure what choosing a batch costs beside the scoring, on random clustered embeddings."""
    announce("measuring what choosing a batch costs")
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CENTERS, WIDTH))
    of = rng.integers(CENTERS, size=N_POOL + N_QUERIED)
    embeddings = (centers[of] + rng.normal(size=(len(of), WIDTH))).astype(np.float16)
    candidates = Candidates(
        image_ids=[f"i{n}" for n in range(N_POOL)],
        probs=random_probs(rng, N_POOL),
        embeddings=embeddings[:N_POOL],
        asked=embeddings[N_POOL:],
    )
    figures = []
    for strategy in STRATEGIES:
        resolved = resolve(strategy, n_asked=N_QUERIED, n_classes=10)
        choose = partial(select, resolved, candidates, BATCH, np.random.default_rng(0))
        name = f"choosing {BATCH} of {N_POOL:,}, {N_QUERIED:,} asked: {strategy}"
        figures.append(Figure(name, f"{timeit(choose, number=1):.2f} s", "<= 5 s"))
    return figures


if __name__ == "__main__":
    run(main)
