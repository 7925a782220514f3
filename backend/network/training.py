"""Train a ResNet-18 on labeled uint8 images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.base.arrays import Images, Labels, Scores
from backend.base.errors import TooFewLabelsError, TrainingError
from backend.network import resnet
from backend.network.augmentation import augment
from backend.network.inference import normalizer, on_device, resize_bytes
from backend.network.stepping import autocast, make_momenta, warm_up_then_cosine
from backend.network.team import ALONE, Team


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


class Training:
    """A training run, one step at a time.

    The same seed on the same device gives the same weights, bit for bit, also if the run is
    interrupted and resumed. Raises TooFewLabelsError if the labels cover fewer than two classes.
    """

    def __init__(
        self,
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
        team: Team = ALONE,
    ) -> None:
        if (n_seen := len(np.unique(labels))) < 2:
            raise TooFewLabelsError(
                f"{len(labels)} labeled images of {n_seen} class(es) are not enough "
                "to train on: label images of at least two classes"
            )
        self._recipe, self._team = recipe, team
        self._n_images, self.steps_done = len(images), 0
        self._model = resnet.build(n_classes, start, seed=seed)
        self._model.to(memory_format=torch.channels_last).to(device)
        self._learner = team.wrap(self._model)
        self._optimizer = make_optimizer(self._model, recipe)
        self._momenta = make_momenta(self._model, self._optimizer)
        self._loss = torch.zeros((), device=device)
        self._batches_from = partial(
            batches,
            images,
            labels,
            weights,
            recipe=recipe,
            may_flip=may_flip,
            seed=seed,
            device=torch.device(device),
            team=team,
        )
        self._feed = self._batches_from()

    @property
    def steps(self) -> int:
        """Return the number of steps of the whole run."""
        return self._recipe.steps(self._n_images)

    def step(self) -> None:
        """Train on the next batch; on a GPU, return as soon as the step is enqueued."""
        batch, targets, weights = next(self._feed)
        self._optimizer.param_groups[0]["lr"] = self._recipe.lr_at(self.steps_done, self.steps)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            self._loss = take_step(self._learner, self._optimizer, batch, targets, weights)
        self.steps_done += 1

    def finish(self) -> resnet.State:
        """Return the weights on the CPU. Raises TrainingError if the loss diverged."""
        if not self._loss.isfinite():
            raise TrainingError(
                "training diverged: the loss is NaN or infinite; "
                "check the weights that training started from (WEIGHTS)"
            )
        self._team.average(self._model.buffers())
        return _on_cpu(self._model.state_dict())

    def state_dict(self) -> resnet.State:
        """Return everything that resuming needs, on the CPU."""
        return _on_cpu(self._state()) | {"steps_done": torch.tensor(self.steps_done)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state_dict` returned in a run with the same arguments."""
        for name, tensor in self._state().items():
            tensor.copy_(state[name])
        self.steps_done = int(state["steps_done"])
        self._feed = self._batches_from(first_step=self.steps_done)

    def _state(self) -> resnet.State:
        momenta = {f"momentum.{name}": tensor for name, tensor in self._momenta.items()}
        return {f"model.{name}": t for name, t in self._model.state_dict().items()} | momenta


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
    """Fine-tune `start`, and return the trained weights on the CPU; see `Training`.

    `weights` set how much each label counts; only their ratios matter. `on_step(step, steps)` is
    called after each step (on a GPU, as soon as the step is enqueued). Raises TooFewLabelsError if
    the labels cover fewer than two classes. Raises TrainingError if the loss diverges.
    """
    training = Training(
        images,
        labels,
        weights=weights,
        n_classes=n_classes,
        start=start,
        recipe=recipe,
        may_flip=may_flip,
        seed=seed,
        device=device,
    )
    while training.steps_done < training.steps:
        training.step()
        if on_step is not None:
            on_step(training.steps_done, training.steps)
    return training.finish()


def _on_cpu(tensors: Mapping[str, Tensor]) -> resnet.State:
    layout = torch.contiguous_format
    return {name: t.detach().cpu().clone(memory_format=layout) for name, t in tensors.items()}


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
    team: Team = ALONE,
    first_step: int = 0,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the batches of a training run: augmented images, classes, and weights with mean 1.

    All batches are full: one batch may contain the end of an epoch and the start of the next. A
    process of a team gets its part of each batch.
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
    part = team.part(order.shape[1])
    shares_on_device *= team.importance(order.shape[1])
    plan = (drawn[first_step:, part].to(device) for drawn in (order, views, jitters))
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
