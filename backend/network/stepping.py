"""What training steps need: their precision, momenta and share of the peak learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from backend.network import resnet

SINGLE_PIXEL_PX = 16  # the last layers see a single pixel of images of up to this size


def autocast(batch: Tensor) -> torch.autocast:
    """Return the context in which a network sees the images in `batch` during training."""
    # On a CPU, PyTorch 2.15 leaves parts of a bfloat16 gradient unset if the input of a convolution
    # with stride 2 is a single pixel. The garbage in them may be NaN.
    is_broken = batch.device.type == "cpu" and batch.shape[-1] <= SINGLE_PIXEL_PX
    return torch.autocast(batch.device.type, torch.bfloat16, enabled=not is_broken)


def make_momenta(model: nn.Module, optimizer: torch.optim.Optimizer) -> resnet.State:
    """Return the momentum of each weight, which the optimizer then updates in place."""
    weights = dict(model.named_parameters())
    momenta = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for name, weight in weights.items():
        optimizer.state[weight]["momentum_buffer"] = momenta[name]
    return momenta


def warm_up_then_cosine(done: float, warm_up: float) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, then cosine decay to 0.

    `done` is the share of the training that is done; `warm_up` is the share that warms up.
    """
    if done < warm_up:
        return done / warm_up
    left = (1 - done) / (1 - warm_up)
    return (1 - math.cos(math.pi * left)) / 2
