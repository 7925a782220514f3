"""Train a network on labeled images on a Ray cluster, with the recipe of one machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from backend.base.arrays import Images, Labels, Scores
from backend.network import resnet
from backend.network.team import MIN_PART
from backend.network.training import Recipe, Training
from backend.scale.cluster import connected
from backend.scale.nodes import matching_nodes, training_workers
from backend.scale.team_run import Member, run_team
from backend.store.place import Place
from backend.store.tensor_file import from_bytes, to_bytes

START = "start.safetensors"  # empty without pre-trained weights
FILE_BYTES = 64 << 20  # of the images in one of the files that the workers read


@dataclass(frozen=True)
class Work:
    """What each worker needs to know. The images, labels and weights are in the files."""

    inputs: Place
    n_files: int
    n_classes: int
    recipe: Recipe
    may_flip: bool
    seed: int


def train(
    images: Images,
    labels: Labels,
    *,
    weights: Scores,
    n_classes: int,
    start: resnet.State | None,
    recipe: Recipe,
    may_flip: bool,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    address: str,
    place: Place,
    name: str,
    on_step: Callable[[int, int], None],
) -> resnet.State:
    """Fine-tune `start` on the cluster at `address`; see `backend.network.training.train`.

    As many workers share each batch as get MIN_PART images of it, so the batch size and learning
    rate stay those of one machine. A run with the name of one that was killed goes on from its last
    checkpoint, which is kept below `place`.
    """
    with connected(address):
        workers = training_workers(matching_nodes(), device, recipe.batch_size // MIN_PART)
        inputs = place.below(f"{name}-inputs")
        n_files = _write_inputs(inputs, images, labels, weights, start)
        work = Work(inputs, n_files, n_classes, recipe, may_flip, seed)

        def on_progress(done: float, total: float) -> bool:
            if total:
                on_step(int(done), int(total))
            return True

        try:
            return run_team(_train, work, place, name, workers, on_progress)
        finally:
            place.delete(f"{name}-inputs")


def _train(member: Member, work: Work) -> resnet.State:
    parts = [from_bytes(work.inputs.read(_file(number))) for number in range(work.n_files)]
    start = from_bytes(work.inputs.read(START))
    training = Training(
        np.concatenate([part["images"] for part in parts]),
        np.concatenate([part["labels"] for part in parts]),
        weights=np.concatenate([part["weights"] for part in parts]),
        n_classes=work.n_classes,
        start={name: torch.from_numpy(array) for name, array in start.items()} or None,
        recipe=work.recipe,
        may_flip=work.may_flip,
        seed=work.seed,
        device=member.device,
        team=member.team,
    )
    if (state := member.checkpoint()) is not None:
        training.load_state_dict(state)
    may_go_on = True
    while training.steps_done < training.steps and may_go_on:
        training.step()
        may_go_on = member.may_go_on(training.steps_done, training.steps, training.state_dict)
    return training.finish()


def _write_inputs(
    inputs: Place, images: Images, labels: Labels, weights: Scores, start: resnet.State | None
) -> int:
    """Write what the workers train on, and return the number of files with images."""
    arrays = {name: tensor.numpy() for name, tensor in (start or {}).items()}
    inputs.write(START, to_bytes(arrays))
    size = max(1, FILE_BYTES // int(np.prod(images.shape[1:])))
    firsts = range(0, len(images), size)
    for number, first in enumerate(firsts):
        part = slice(first, first + size)
        of_part: dict[str, NDArray[Any]] = {
            "images": images[part],
            "labels": labels[part],
            "weights": weights[part],
        }
        inputs.write(_file(number), to_bytes(of_part))
    return len(firsts)


def _file(number: int) -> str:
    return f"images-{number:05d}.safetensors"
