"""Train once, and return the last weights beside averages of the weights over the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from backend.base.arrays import Images, Labels
from backend.network import resnet
from backend.network.inference import load_model, normalizer, on_device, resize
from backend.network.training import Recipe, batches, make_optimizer, take_step

LAST = "last weights"
BATCH_SIZE = 256


def train_averaged(
    images: Images,
    labels: Labels,
    *,
    n_classes: int,
    start: Mapping[str, Tensor] | None,
    recipe: Recipe,
    may_flip: bool,
    seed: int,
    device: torch.device | str,
    decays: Sequence[float],
) -> dict[str, resnet.State]:
    """Train as the loop does; return the last weights, and one moving average for each decay.

    The averages include the batch-norm statistics. They begin with the weights after the first
    step. The last weights are those that `train` returns, bit for bit.
    """
    device = torch.device(device)
    model = resnet.build(n_classes, start, seed=seed).to(memory_format=torch.channels_last)
    model.to(device)
    averages = {
        name_of(decay): AveragedModel(model, multi_avg_fn=_moving(decay), use_buffers=True)
        for decay in decays
    }
    optimizer = make_optimizer(model, recipe)
    steps = recipe.steps(len(images))
    feed = batches(images, labels, recipe=recipe, may_flip=may_flip, seed=seed, device=device)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        for step, (batch, targets, weights) in enumerate(feed):
            optimizer.param_groups[0]["lr"] = recipe.lr_at(step, steps)
            take_step(model, optimizer, batch, targets, weights)
            for average in averages.values():
                average.update_parameters(model)
    return {
        LAST: _state(model),
        **{name: _state(average.module) for name, average in averages.items()},
    }


def name_of(decay: float) -> str:
    """Return the name of the average with this decay per step."""
    return f"average {decay:g}"


def refit_statistics(
    state: resnet.State, n_classes: int, images: Images, image_size: int, device: torch.device
) -> resnet.State:
    """Return the network with the batch-norm statistics of these images, which need no labels."""
    # A copy, because the model uses the tensors that it is given, and the update writes to them.
    copied = {name: tensor.clone() for name, tensor in state.items()}
    model = load_model(copied, n_classes, device)
    normalize = normalizer(device)
    firsts = range(0, len(images), BATCH_SIZE)
    parts = (on_device(images[first : first + BATCH_SIZE], device) for first in firsts)
    with torch.autocast(device.type, torch.bfloat16):
        update_bn((resize(normalize(part), image_size) for part in parts), model)
    return _state(model)


def _moving(decay: float) -> Callable[..., None]:
    return get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]


def _state(model: nn.Module) -> resnet.State:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
