"""The device: what DEVICE asks for in, the torch device that models run on out."""

from __future__ import annotations

import torch

from backend.base.errors import DeviceError


def find_device(wanted: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: a GPU where there is one. DeviceError where `cuda` finds none."""
    if wanted != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if wanted == "cuda":
        raise DeviceError(
            "DEVICE=cuda, and no GPU can be used here: see that `nvidia-smi` works (a container "
            "needs the NVIDIA Container Toolkit), or set DEVICE=cpu (compose: COMPOSE_PROFILES=cpu)"
        )
    return torch.device("cpu")
