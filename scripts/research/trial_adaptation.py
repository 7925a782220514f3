"""Compare self-supervised methods that adapt the pre-trained body to a pool, at equal CPU time.

    python -m scripts.research.trial_adaptation --out var/adaptation

Each method starts from WEIGHTS and sees only the pool's images, for --minutes of one thread's CPU
time. Then the batch-norm statistics are refit to plain images from the pool, and heads are fitted
to the embeddings of randomly drawn, labeled images; also after averaging the body's weights with
those of the start. Prints their accuracy on the test split, or with --split validation on the
validation split, by which learning rates can be chosen. A method whose result is in --out is not
run again; its bodies are saved there as well.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.base.arrays import Images
from backend.base.command_line import CommandParser, run
from backend.base.errors import TrainingError
from backend.base.settings import load_settings
from backend.network import resnet
from backend.network.adaptation import AdaptationRecipe, average_with_start
from backend.network.augmentation import augment, draw_crops, draw_strong_jitters
from backend.network.inference import normalizer, on_device
from backend.network.stepping import warm_up_then_cosine
from scripts.console.progress_bars import progress_bar
from scripts.research.adaptation_methods import METHODS, Crops, Method
from scripts.research.adaptation_probe import Probe, Result, summarize
from scripts.research.experiment import Experiment, open_experiment
from scripts.research.trials import run_resumable

CPU = torch.device("cpu")
UNADAPTED = "none"
WARM_UP = 0.1  # share of the time


def main() -> int:
    """Run the methods that have no result yet, and print the table."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of results and bodies")
    known = [UNADAPTED, *METHODS]
    parser.add_argument("--methods", nargs="+", default=known, choices=known)
    parser.add_argument("--minutes", type=float, default=10, help="CPU time of each method")
    parser.add_argument("--lr", type=float, help="the highest, instead of each method's own")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 200, 500, 1000, 2000])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return run_resumable(lambda: compare(arguments))


def compare(arguments: argparse.Namespace) -> None:
    """Measure each method, unless its result is there, and print the table."""
    torch.set_num_threads(1)  # process_time is then the time of one core
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = load_settings()
    experiment = open_experiment(settings, seed=settings.seed)
    probe = Probe(experiment.pool, arguments.split, arguments.labels, arguments.draws)
    results = []
    for name in arguments.methods:
        path = arguments.out / f"{name}.json"
        if not path.exists():
            result = measure(name, experiment, probe, arguments)
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps(asdict(result), indent=1))
            draft.replace(path)
        results.append(Result(**json.loads(path.read_text())))
    print(summarize(results))


def measure(
    name: str, experiment: Experiment, probe: Probe, arguments: argparse.Namespace
) -> Result:
    """Adapt a body by one method, save what the method made, and measure it."""

    def make_body() -> nn.Module:
        body = resnet.build(1, experiment.weights.state, seed=arguments.seed)
        body.fc = nn.Identity()
        return body.to(memory_format=torch.channels_last)

    if name == UNADAPTED:
        accuracy = {"": probe.measure(make_body()), "refit": probe.measure(make_body(), refit=True)}
        return Result(name, 0.0, 0.0, 0, 0.0, arguments.split, accuracy)
    torch.manual_seed(arguments.seed)  # projection heads
    method = METHODS[name](make_body)
    lr = arguments.lr or method.lr
    pool = experiment.pool
    steps = adapt(
        method,
        pool.images,
        seconds=60 * arguments.minutes,
        lr=lr,
        may_flip=pool.may_flip,
        seed=arguments.seed,
    )
    accuracy = {}
    for of, body in method.bodies().items():
        accuracy[of] = probe.measure(body, refit=True)
        tensors = {key: tensor.contiguous() for key, tensor in body.state_dict().items()}
        save_file(tensors, arguments.out / f"{name}-{of}.safetensors")
        average_with_start(body, make_body(), AdaptationRecipe().share_kept)
        accuracy[f"{of} averaged with the start"] = probe.measure(body, refit=True)
    passes = steps * method.batch_size / len(pool.images)
    return Result(name, lr, arguments.minutes, steps, passes, arguments.split, accuracy)


def adapt(
    method: Method, images: Images, *, seconds: float, lr: float, may_flip: bool, seed: int
) -> int:
    """Train for `seconds` of CPU time, and return the number of steps."""
    optimizer = torch.optim.SGD(
        [weight for weight in method.trained.parameters() if weight.requires_grad],
        lr=lr,
        momentum=0.9,
        weight_decay=1e-4,
        nesterov=True,
        fused=True,
    )
    method.trained.train()
    began = time.process_time()
    with progress_bar() as report:
        for step, rows in enumerate(draw_batches(len(images), method.batch_size, seed)):
            spent = time.process_time() - began
            if (progress := spent / seconds) >= 1:
                break
            optimizer.param_groups[0]["lr"] = lr * warm_up_then_cosine(progress, WARM_UP)
            rng = torch.Generator().manual_seed(1_000_003 * seed + step)
            batch = on_device(images[rows], CPU)
            loss = method.loss(
                [draw_views(batch, crops, may_flip=may_flip, rng=rng) for crops in method.crops]
            )
            if not math.isfinite(loss.item()):
                raise TrainingError(f"the loss diverged at step {step}: use a lower --lr")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            method.before_update(progress)
            optimizer.step()
            method.after_update(progress)
            report(f"adapting by {type(method).__name__}", round(spent), round(seconds))
    return step


def draw_views(images: Tensor, crops: Crops, *, may_flip: bool, rng: torch.Generator) -> Tensor:
    """Return views of uint8 images, with the loop's own color changes.

    The first view of every image comes first, then the second of every image, and so on.
    """
    n, recipe = crops.count * len(images), AdaptationRecipe()
    views = draw_crops(n, crops.areas, may_flip, rng)
    jitters = draw_strong_jitters(
        n, recipe.color_jitter, recipe.share_unchanged, recipe.share_grey, rng
    )
    stored = normalizer(CPU)(images).repeat(crops.count, 1, 1, 1)
    return augment(stored, views, jitters, crops.side)


def draw_batches(n_images: int, batch_size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield batches of rows without end, from one shuffled pass over the images after another."""
    rng = np.random.default_rng(seed)
    waiting: NDArray[np.int64] = np.empty(0, np.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = np.append(waiting, rng.permutation(n_images))
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


if __name__ == "__main__":
    run(main)
