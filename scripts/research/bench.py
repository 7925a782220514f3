"""Measure the cost of the loop, as ratios within one run if possible, otherwise in seconds.

    python -m scripts.research.bench --quick

Prints a table and writes var/bench.json. POOL, WEIGHTS and IMAGE_SIZE come from the settings.
Without --quick, it also starts a whole stack in var/bench, and removes it afterward.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from timeit import timeit

import numpy as np
import torch

from backend.asking.query import Candidates, resolve, select
from backend.base.arrays import Images
from backend.base.command_line import ROOT, CommandParser, run
from backend.base.settings import load_settings
from backend.base.strategy_names import STRATEGIES
from backend.images.framing import SMALL_PX
from backend.network import inference, resnet, training
from backend.network.training import Recipe
from scripts.research.bench_backend import backend_figures
from scripts.research.bench_circle import circle_figures
from scripts.research.bench_pool import large_pool_figures
from scripts.research.bench_refit import refit_figures
from scripts.research.measurement import Figure, announce, print_table
from scripts.research.random_project import random_probs

WIDTH, CENTERS, N_POOL, N_QUERIED, BATCH = 512, 50, 50_000, 2_000, 100
N_CLASSES, SCORED_AT_ONCE = 10, 256
WARM_UP = 3  # steps that do not count, because they build, allocate and choose kernels


def main() -> int:
    """Measure everything, and print the table."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="skip heads with many annotations, large pools and a whole stack",
    )
    arguments = parser.parse_args()
    asked = load_settings().image_size
    size = SMALL_PX if asked == "auto" else asked
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = [*model_figures(size, device), *choice_figures(), *backend_figures(size, device)]
    if not arguments.quick:
        figures += [*refit_figures(), *large_pool_figures(), *circle_figures()]
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"\n{name}, {os.cpu_count()} cores")
    print_table(figures)
    report = {"device": name, "figures": [vars(figure) for figure in figures]}
    (ROOT / "var").mkdir(exist_ok=True)
    (ROOT / "var/bench.json").write_text(json.dumps(report, indent=2))
    return 0


def model_figures(image_size: int, device: str) -> list[Figure]:
    """Measure the speed of scoring and training; at a ratio of 1.0, it equals a bare loop's."""
    announce("measuring the cost of feeding the model")
    scoring, steps = scoring_ratio(image_size, device), training_ratio(image_size, device)
    return [
        Figure("scoring the pool, over bare forward", f"{scoring:.2f}", ">= 0.9"),
        Figure("training steps, over a bare loop", f"{steps:.2f}", ">= 0.9"),
    ]


def choice_figures() -> list[Figure]:
    """Measure the cost of choosing a batch from random clustered embeddings, without scoring."""
    announce("measuring the cost of choosing a batch")
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


class PairedTimes:
    """Times each of our steps and, right after it, a bare step.

    A busy machine slows down both steps of a pair, and hardly changes their ratio.
    """

    def __init__(self, device: str, bare_step: Callable[[], object]) -> None:
        self._is_cuda = torch.device(device).type == "cuda"
        self._bare_step = bare_step
        self._laps = [perf_counter()]

    def __call__(self, _done: int, _total: int) -> None:
        """Record the time of our step, then the time of a bare step."""
        self._lap()
        self._bare_step()
        self._lap()

    def ratio(self) -> float:
        """Return our speed divided by the bare step's speed, as the median over all pairs."""
        ours_s, bare_s = np.diff(self._laps).reshape(-1, 2)[WARM_UP:].T
        return median(bare_s / ours_s)

    def _lap(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()
        self._laps.append(perf_counter())


def training_ratio(image_size: int, device: str, steps: int = 30) -> float:
    """Return the steps/s of `training.train` divided by the steps/s on one augmented batch."""
    recipe = Recipe(image_size=image_size, min_steps=steps, epochs=0)
    images, labels = _noise(512), np.arange(512) % N_CLASSES
    feed = training.batches(
        images, labels, recipe=recipe, may_flip=True, seed=0, device=torch.device(device)
    )
    batch = next(feed)
    model = resnet.build(N_CLASSES, None, seed=0).to(memory_format=torch.channels_last)
    optimizer = training.make_optimizer(model.to(device), recipe)
    times = PairedTimes(device, lambda: training.take_step(model, optimizer, *batch))
    training.train(
        images,
        labels,
        n_classes=N_CLASSES,
        start=None,
        recipe=recipe,
        may_flip=True,
        seed=0,
        device=device,
        on_step=times,
    )
    return times.ratio()


def scoring_ratio(image_size: int, device: str, batches: int = 20) -> float:
    """Return the images/s of `predict` divided by the images/s of a bare forward pass."""
    state = resnet.build(N_CLASSES, None, seed=0).state_dict()
    model = inference.load_model(state, N_CLASSES, device)
    images = _noise(SCORED_AT_ONCE * batches)
    on_device = inference.on_device(images[:SCORED_AT_ONCE], torch.device(device))
    ready = inference.resize(inference.normalizer(torch.device(device))(on_device), image_size)

    def forward() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            model(ready)

    times = PairedTimes(device, forward)
    inference.predict(
        model,
        images,
        image_size=image_size,
        device=device,
        batch_size=SCORED_AT_ONCE,
        on_batch=times,
    )
    return times.ratio()


def _noise(n: int) -> Images:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


if __name__ == "__main__":
    run(main)
