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
from backend.network.inference import normalizer, on_device, resize_bytes

SINGLE_PIXEL_PX = 16  # the last layers see a single pixel of images of up to this size


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
    # On a CPU, PyTorch 2.15 leaves parts of a bfloat16 gradient unset if the input of a convolution
    # with stride 2 is a single pixel. The garbage in them may be NaN.
    is_broken = batch.device.type == "cpu" and batch.shape[-1] <= SINGLE_PIXEL_PX
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=not is_broken):
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
        augmented = _augment(normalize(stored[chosen]), view, jitter, recipe.image_size)
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


def _augment(images: Tensor, views: Tensor, jitters: Tensor, image_size: int) -> Tensor:
    """Change the colors of normalized images, then flip, translate and resize them.

    Saturation scales the distance of a pixel from the mean of its three channels; contrast scales
    the distance of a pixel from ImageNet's mean color (Howard 2013, arXiv:1312.5402). Mirrored
    pixels fill the edges.
    """
    brightness, contrast, saturation = jitters.T[..., None, None, None]
    grey = images.mean(dim=1, keepdim=True)
    # Change colors before resizing, while the images are small: both steps are linear, so their
    # order does not affect the result.
    jittered = grey.lerp(images, saturation).mul_(contrast).add_(brightness)
    grid = F.affine_grid(views, [len(images), 3, image_size, image_size], align_corners=False)
    resized = F.grid_sample(jittered, grid, padding_mode="reflection", align_corners=False)
    return resized.contiguous(memory_format=torch.channels_last)
