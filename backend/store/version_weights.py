"""Check and read a version's model.safetensors.

A full version has all the weights of a ResNet-18; a head has only the last layer's weights.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.base.errors import BrokenVersionError
from backend.network import resnet_layout
from backend.network.resnet_layout import HEAD_TENSORS
from backend.store import tensor_file
from backend.store.files import cached_until_changed, sha256

State = dict[str, NDArray[Any]]  # a state_dict as arrays, so that reading it needs no torch
FILE = "model.safetensors"


def body_key(state: State) -> str:
    """Return a fingerprint of all weights except the last layer's."""
    digest = hashlib.sha256()
    for name in sorted(state.keys() - set(HEAD_TENSORS)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()[:16]


@cached_until_changed(4096)
def find_header_fault(path: Path, n_classes: int, is_head: bool) -> str:
    """Return why a file's header does not fit a ResNet-18, or a head; "" if it does."""
    find_fault = resnet_layout.find_head_fault if is_head else resnet_layout.find_fault
    try:
        fault = find_fault(tensor_file.read_header(path), n_classes)
    except ValueError as error:
        return f"is damaged: {error}"
    return f"is not a ResNet-18 of {n_classes} classes: {fault}" if fault else ""


@cached_until_changed(4096)
def read_width(path: Path) -> int:
    """Return the number of inputs to the last layer."""
    return tensor_file.read_header(path)[HEAD_TENSORS[0]].shape[1]


@cached_until_changed(256)
def find_fault(path: Path, expected_sha256: str) -> str:
    """Return what `read_weights` finds wrong with a file's content, or "".

    An OSError is not caught, and therefore not cached, because it may be temporary.
    """
    try:
        read_weights(path, expected_sha256)
    except BrokenVersionError as error:
        return str(error)
    return ""


def read_weights(path: Path, expected_sha256: str) -> State:
    """Read a version's own weights; BrokenVersionError unless they match the hash and are finite.

    OSError if the file cannot be read.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        if sha256(path) != expected_sha256:
            raise BrokenVersionError(f"{name} differs from its sha256")
        _, state = tensor_file.read_tensors(path)
    except ValueError as error:
        raise BrokenVersionError(f"{name} cannot be read: {error}") from None
    if tensor := tensor_file.find_not_finite(state):
        raise BrokenVersionError(f"{name} is damaged: {tensor} holds NaN or infinite numbers")
    return state
