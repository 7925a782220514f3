"""Predict class probabilities and embeddings for uint8 images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from backend.base.arrays import Images, Probs
from backend.base.errors import BrokenVersionError, TrainingError
from backend.network.resnet_layout import HEAD_TENSORS

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # as used to train torchvision's weights
IMAGENET_STD = (0.229, 0.224, 0.225)
BATCH_SIZE = 256  # images that enter the network together


def load_model(
    state: Mapping[str, Tensor], n_classes: int, device: torch.device | str
) -> nn.Module:
    """Load `state` into a ResNet-18. Raises BrokenVersionError if the tensors do not fit."""
    from torchvision.models import resnet18  # a slow import that most commands do not need

    with torch.device("meta"):  # skips drawing random weights that would be overwritten anyway
        model = resnet18(num_classes=n_classes)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise BrokenVersionError(f"not a ResNet-18 of {n_classes} classes: {error}") from None
    return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def load_network(state: Mapping[str, NDArray[Any]], device: torch.device | str) -> nn.Module:
    """Load a full network whose tensors are arrays; see `load_model`."""
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    return load_model(tensors, len(state[HEAD_TENSORS[1]]), device)


@dataclass(frozen=True)
class Outputs:
    """A model's outputs, one row per image."""

    probs: Probs
    embeddings: NDArray[np.float16]


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: Images,
    *,
    image_size: int,
    device: torch.device | str,
    batch_size: int = BATCH_SIZE,
    on_batch: Callable[[int, int], None] | None = None,
) -> Outputs:
    """Return class probabilities and embeddings for images of the same size.

    The probabilities are those that the last layer gives to the embeddings as they are returned, so
    they can be computed from saved embeddings. `on_batch(done, total)` is called after each batch;
    both numbers count images.
    """
    device = torch.device(device)
    normalize = normalizer(device)
    head = model.get_submodule("fc")
    embed = nn.Sequential(*list(model.children())[:-1], nn.Flatten())  # all but the head
    weight, bias = head.get_parameter("weight"), head.get_parameter("bias")
    probs, embeddings = [], []
    for first in range(0, len(images), batch_size):
        batch = resize(normalize(on_device(images[first : first + batch_size], device)), image_size)
        with torch.autocast(device.type, torch.bfloat16):
            embedded = embed(batch).half()
        logits = F.linear(embedded.float(), weight, bias)
        probs.append(logits.softmax(dim=1))
        embeddings.append(embedded)
        if on_batch is not None:
            on_batch(first + len(batch), len(images))
    if not probs:
        classes, width = weight.shape
        return Outputs(np.empty((0, classes), np.float32), np.empty((0, width), np.float16))
    # Only here does the CPU wait for the device.
    return Outputs(torch.cat(probs).cpu().numpy(), torch.cat(embeddings).cpu().numpy())


def check_finite(embeddings: NDArray[np.float16]) -> None:
    """Raise TrainingError if an embedding contains NaN or an infinite number."""
    if not np.isfinite(embeddings).all():
        raise TrainingError(
            "the embeddings of the pool contain NaN or infinite numbers: promote another version, "
            "or check the weights that WEIGHTS names"
        )


def on_device(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Copy images to `device` as uint8 (images, 3, height, width), with channels last in memory."""
    # torch warns about read-only arrays, such as a part of a memory-mapped pool.
    batch = torch.from_numpy(images if images.flags.writeable else images.copy())
    if device.type == "cuda":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2)


def normalizer(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that normalizes uint8 images for torchvision's weights on `device`."""
    mean = torch.tensor(IMAGENET_MEAN, device=device).mul(255).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).mul(255).view(1, 3, 1, 1)
    return lambda images: images.float().sub_(mean).div_(std)


def resize(images: Tensor, image_size: int) -> Tensor:
    """Squash float images (n, 3, height, width) to squares."""
    size = (image_size, image_size)
    if images.shape[2:] == size:
        return images
    shrinks = max(images.shape[2:]) > image_size
    return F.interpolate(images, size, mode="bilinear", antialias=shrinks)


def resize_bytes(images: Tensor, image_size: int) -> Tensor:
    """Squash uint8 images (n, 3, height, width) to squares, on any device."""
    return resize(images.float(), image_size).round_().byte()
