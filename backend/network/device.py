"""Find the device that models run on."""

from __future__ import annotations

import torch

from backend.base.errors import DeviceError


def find_device(wanted: str) -> torch.device:
    """Return the device for `cpu`, `cuda` or `auto`; `auto` uses a GPU if one is available.

    Raises DeviceError if `wanted` is `cuda` and no GPU is available.
    """
    if wanted != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if wanted == "cuda":
        raise DeviceError(
            "DEVICE=cuda, but no GPU is usable: check that `nvidia-smi` works (a container needs "
            "the NVIDIA Container Toolkit), or set DEVICE=cpu (compose: COMPOSE_PROFILES=cpu)"
        )
    return torch.device("cpu")
