"""Train a ResNet-18: labeled uint8 images in, its weights out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.base.arrays import Labels, Scores
from backend.base.errors import TooFewLabelsError, TrainingError
from backend.network import resnet
from backend.network.inference import Images, normalizer, on_device, resize_bytes


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults were measured on CIFAR-10 with 200 to 5,000 labels."""

    image_size: int = 64
    batch_size: int = 64
    min_steps: int = 60
    epochs: int = 10
    lr: float = 0.02  # at its peak
    warm_up: float = 0.2  # of all steps
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: float = 0.125  # of height and width: how far a crop moves at most
    tint: float = 0.3  # how far brightness (in deviations), contrast and saturation go at most

    def steps(self, n_images: int) -> int:
        """As many as `epochs` take, but never fewer than `min_steps`."""
        return max(self.min_steps, math.ceil(self.epochs * n_images / self.batch_size))

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of step 0 <= `step` < `steps`: up in a line, down in half a cosine."""
        done = (step + 0.5) / steps
        if done < self.warm_up:
            return self.lr * done / self.warm_up
        left = (1 - done) / (1 - self.warm_up)
        return self.lr * (1 - math.cos(math.pi * left)) / 2


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
    """Fine-tune `start`; the same seed on the same device gives the same weights, bit for bit.

    `weights` say how much each label counts; only their ratios matter.
    `on_step(step, steps)` comes after each step; on a GPU as soon as the step is enqueued.
    """
    _check_labels(labels)
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
            "the training went wrong, its loss is no number any more: "
            "check that the weights it started from (WEIGHTS) are sound"
        )
    return {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum."""
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
    """One update; returns the loss, still on its device: reading it would wait for the step."""
    with torch.autocast(batch.device.type, torch.bfloat16):
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
    """A training's batches, augmented and normalized, all full: epochs run on into each other.

    Images, classes, and weights whose mean over all images is 1.
    """
    stored = on_device(images, device)
    if max(stored.shape[2:]) > recipe.image_size:
        stored = resize_bytes(stored, recipe.image_size)
    targets = torch.from_numpy(np.array(labels)).to(device)
    shares = np.ones(len(labels), np.float32) if weights is None else weights / weights.mean()
    shares_on_device = torch.from_numpy(shares).to(device)
    # All chance is drawn here, on the CPU, so that no step waits for it.
    rng = torch.Generator().manual_seed(seed)
    order = _draw_order(len(images), recipe, rng)
    views = _draw_views(order, stored.shape[2:], recipe.shift, may_flip, rng)
    tints = _draw_tints(order, recipe.tint, rng)
    normalize = normalizer(device)
    plan = (drawn.to(device) for drawn in (order, views, tints))
    for chosen, view, tint in zip(*plan, strict=True):
        # Tinted while they are small: as both are linear, the order makes no difference.
        tinted = _tint(normalize(stored[chosen]), tint)
        looks = _look(tinted, view, recipe.image_size)
        yield looks, targets[chosen], shares_on_device[chosen]


def _check_labels(labels: Labels) -> None:
    if len(np.unique(labels)) < 2:
        raise TooFewLabelsError(
            f"{len(labels)} labeled images of {len(np.unique(labels))} class(es) are not enough "
            "to train on: label images of at least two classes"
        )


def _draw_order(n_images: int, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """(steps, batch) positions: shuffled epochs, one after the other."""
    batch_size, steps = min(recipe.batch_size, n_images), recipe.steps(n_images)
    epochs = math.ceil(steps * batch_size / n_images)
    shuffled = torch.cat([torch.randperm(n_images, generator=rng) for _ in range(epochs)])
    return shuffled[: steps * batch_size].view(steps, batch_size)


def _draw_views(
    order: Tensor, size: torch.Size, shift: float, may_flip: bool, rng: torch.Generator
) -> Tensor:
    """(steps, batch, 2, 3): for each image the affine map of a flip and a shift by whole pixels."""
    views = torch.zeros(*order.shape, 2, 3)
    views[..., 0, 0] = torch.randint(2, order.shape, generator=rng) * 2 - 1 if may_flip else 1
    views[..., 1, 1] = 1
    for axis, pixels in enumerate(reversed(size)):  # x, then y
        most = round(shift * pixels)
        moved = torch.randint(-most, most + 1, order.shape, generator=rng)
        views[..., axis, 2] = moved * 2 / pixels  # the image is 2 wide: -1..1
    return views


def _draw_tints(order: Tensor, most: float, rng: torch.Generator) -> Tensor:
    """(steps, batch, 3): brightness (0 = as it is), contrast and saturation (1 = as it is)."""
    moved = (torch.rand(*order.shape, 3, generator=rng) * 2 - 1) * most
    return moved + torch.tensor([0.0, 1.0, 1.0])


def _tint(images: Tensor, tints: Tensor) -> Tensor:
    """Change the colours of normalized images (Howard 2013, arXiv:1312.5402), each in its own way.

    Saturation is the distance from the mean of an image's three channels, pixel by pixel; contrast
    that from ImageNet's mean colour.
    """
    brightness, contrast, saturation = tints.T[..., None, None, None]
    grey = images.mean(dim=1, keepdim=True)
    return grey.lerp(images, saturation).mul_(contrast).add_(brightness)


def _look(images: Tensor, views: Tensor, image_size: int) -> Tensor:
    """Flip, shift and resize float images in one go; mirrored pixels come in at the edges."""
    grid = F.affine_grid(views, [len(images), 3, image_size, image_size], align_corners=False)
    looks = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return looks.contiguous(memory_format=torch.channels_last)
