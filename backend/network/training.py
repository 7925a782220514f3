"""Train a ResNet-18 on labeled uint8 images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.base.arrays import Images, Labels, Scores
from backend.base.errors import TooFewLabelsError, TrainingError
from backend.network import resnet
from backend.network.augmentation import augment
from backend.network.inference import normalizer, on_device, resize_bytes
from backend.network.stepping import autocast, warm_up_then_cosine


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training run.

    The defaults were tuned on CIFAR-10 with 200 to 5,000 labels.
    """

    image_size: int = 64
    batch_size: int = 64
    min_steps: int = 60
    epochs: int = 10
    lr: float = 0.02  # peak learning rate
    warm_up: float = 0.2  # share of all steps
    momentum: float = 0.9
    weight_decay: float = 5e-4
    max_translate: float = 0.125  # how far an image may move, as a share of its sides
    color_jitter: float = 0.3  # largest change in brightness (in SDs), contrast and saturation

    def steps(self, n_images: int) -> int:
        """Return the number of training steps: `epochs` epochs, but at least `min_steps` steps."""
        return max(self.min_steps, math.ceil(self.epochs * n_images / self.batch_size))

    def lr_at(self, step: int, steps: int) -> float:
        """Return the learning rate at step 0 <= `step` < `steps`: linear warm-up, cosine decay."""
        return self.lr * warm_up_then_cosine((step + 0.5) / steps, self.warm_up)


def train(
    images: Images,
    labels: Labels,
    *,
    weights: Scores | None = None,
    n_classes: int,
    start: Mapping[str, Tensor] | None,
    recipe: Recipe,
    may_flip: bool,
    seed: int,
    device: torch.device | str,
    on_step: Callable[[int, int], None] | None = None,
) -> resnet.State:
    """Fine-tune `start`, and return the trained weights on the CPU.

    The same seed on the same device gives the same weights, bit for bit. `weights` set how much
    each label counts; only their ratios matter. `on_step(step, steps)` is called after each step
    (on a GPU, as soon as the step is enqueued). Raises TooFewLabelsError if the labels cover fewer
    than two classes. Raises TrainingError if the loss diverges.
    """
    if (n_seen := len(np.unique(labels))) < 2:
        raise TooFewLabelsError(
            f"{len(labels)} labeled images of {n_seen} class(es) are not enough "
            "to train on: label images of at least two classes"
        )
    device = torch.device(device)
    model = resnet.build(n_classes, start, seed=seed).to(memory_format=torch.channels_last)
    model.to(device)
    optimizer = make_optimizer(model, recipe)
    steps = recipe.steps(len(images))
    feed = batches(
        images,
        labels,
        weights,
        recipe=recipe,
        may_flip=may_flip,
        seed=seed,
        device=device,
    )
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        for step, (batch, targets, of_batch) in enumerate(feed):
            optimizer.param_groups[0]["lr"] = recipe.lr_at(step, steps)
            loss = take_step(model, optimizer, batch, targets, of_batch)
            if on_step is not None:
                on_step(step + 1, steps)
    if not loss.isfinite():
        raise TrainingError(
            "training diverged: the loss is NaN or infinite; "
            "check the weights that training started from (WEIGHTS)"
        )
    return {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return an SGD optimizer with Nesterov momentum."""
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        fused=True,
    )


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    targets: Tensor,
    weights: Tensor,
) -> Tensor:
    """Update the model once, and return the loss.

    The loss stays on the device, because reading it would mean waiting for the step to finish.
    """
    with autocast(batch):
        logits = model(batch)
    loss = (F.cross_entropy(logits.float(), targets, reduction="none") * weights).mean()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def batches(
    images: Images,
    labels: Labels,
    weights: Scores | None = None,
    *,
    recipe: Recipe,
    may_flip: bool,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the batches of a training run: augmented images, classes, and weights with mean 1.

    All batches are full: one batch may contain the end of an epoch and the start of the next.
    """
    stored = on_device(images[:], device)
    if max(stored.shape[2:]) > recipe.image_size:
        stored = resize_bytes(stored, recipe.image_size)
    targets = torch.from_numpy(np.array(labels)).to(device)
    shares = np.ones(len(labels), np.float32) if weights is None else weights / weights.mean()
    shares_on_device = torch.from_numpy(shares).to(device)
    # Draw all random numbers in advance, on the CPU, so that no step waits for them.
    rng = torch.Generator().manual_seed(seed)
    order = _draw_order(len(images), recipe, rng)
    views = _draw_views(order, stored.shape[2:], recipe.max_translate, may_flip, rng)
    jitters = _draw_jitters(order, recipe.color_jitter, rng)
    normalize = normalizer(device)
    plan = (drawn.to(device) for drawn in (order, views, jitters))
    for chosen, view, jitter in zip(*plan, strict=True):
        augmented = augment(normalize(stored[chosen]), view, jitter, recipe.image_size)
        yield augmented, targets[chosen], shares_on_device[chosen]


def _draw_order(n_images: int, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """Draw consecutive shuffled epochs, as (steps, batch) positions."""
    batch_size, steps = min(recipe.batch_size, n_images), recipe.steps(n_images)
    epochs = math.ceil(steps * batch_size / n_images)
    shuffled = torch.cat([torch.randperm(n_images, generator=rng) for _ in range(epochs)])
    return shuffled[: steps * batch_size].view(steps, batch_size)


def _draw_views(
    order: Tensor, size: torch.Size, max_translate: float, may_flip: bool, rng: torch.Generator
) -> Tensor:
    """Draw random flips and whole-pixel translations, as (steps, batch, 2, 3) affine maps."""
    views = torch.zeros(*order.shape, 2, 3)
    views[..., 0, 0] = torch.randint(2, order.shape, generator=rng) * 2 - 1 if may_flip else 1
    views[..., 1, 1] = 1
    for axis, pixels in enumerate(reversed(size)):  # x, then y
        most = round(max_translate * pixels)
        moved = torch.randint(-most, most + 1, order.shape, generator=rng)
        views[..., axis, 2] = moved * 2 / pixels  # coordinates in an image range from -1 to 1
    return views


def _draw_jitters(order: Tensor, most: float, rng: torch.Generator) -> Tensor:
    """Draw (steps, batch, 3) brightness (0 = none), contrast and saturation (1 = unchanged)."""
    moved = (torch.rand(*order.shape, 3, generator=rng) * 2 - 1) * most
    return moved + torch.tensor([0.0, 1.0, 1.0])
