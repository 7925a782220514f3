"""Read, write and check safetensors files, which store a version's weights and outputs.

A full version has all the weights of a ResNet-18; a head has only the weights of the last layer,
and an adapted body has all others.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import TypeAdapter

from backend.base.errors import BrokenVersionError
from backend.network import resnet_layout
from backend.network.resnet_layout import HEAD_TENSORS, TensorType
from backend.store.files import cached_until_changed, sha256

State = dict[str, NDArray[Any]]  # a state_dict of arrays, which can be read without torch

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
IMAGE_IDS = TypeAdapter(tuple[str, ...])  # as JSON in the metadata, for files with a row per image
DTYPES = ("F16", "F32", "F64", "I64")  # the types that we write; numpy lacks some others


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a file atomically. Raises OSError if writing fails."""
    draft = path.with_suffix(f".draft-{os.getpid()}")
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        safetensors.numpy.save_file(whole, draft, metadata)
    except safetensors.SafetensorError as error:  # for example, the disk is full
        raise OSError(str(error)) from error
    draft.replace(path)


def to_bytes(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of a file with these tensors."""
    content: bytes = safetensors.numpy.save(
        {name: np.asarray(array, order="C") for name, array in tensors.items()}
    )
    return content


def from_bytes(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the tensors in a file's content. Raises ValueError if it is invalid."""
    try:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None
    return arrays


def read_header(path: Path) -> dict[str, TensorType]:
    """Return the types and shapes of a file's tensors without reading the tensors.

    Like the other readers, this raises ValueError if the content is invalid and OSError if the
    file cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return _types(file)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Return a file's metadata and arrays."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in _types(file)}
            metadata = dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None
    return metadata, arrays


def find_not_finite(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the name of an array that contains NaN or infinite numbers, or ""."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), "")


@contextmanager
def damage_logged(path: Path) -> Iterator[None]:
    """Suppress errors from a missing or damaged file; log any damage."""
    try:
        yield
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("%s is damaged and was ignored: %.300s", path, error)


def find_array(
    arrays: Mapping[str, NDArray[Any]], name: str, kind: str, n_axes: int
) -> NDArray[Any]:
    """Return an array by name.

    Raises ValueError if the array is missing or has the wrong kind ("f" or "i") or number of axes.
    """
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"{name} is missing")
    if array.dtype.kind != kind or array.ndim != n_axes:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    return array


def body_key(state: State) -> str:
    """Return a fingerprint of all weights except the last layer's."""
    digest = hashlib.sha256()
    for name in sorted(state.keys() - set(HEAD_TENSORS)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()[:16]


@cached_until_changed(4096)
def find_header_fault(path: Path, n_classes: int, is_head: bool) -> str:
    """Return why a file's header does not match a ResNet-18 or a head, or return ""."""
    find_fault = resnet_layout.find_head_fault if is_head else resnet_layout.find_fault
    try:
        fault = find_fault(read_header(path), n_classes)
    except ValueError as error:
        return f"is damaged: {error}"
    return f"is not a ResNet-18 of {n_classes} classes: {fault}" if fault else ""


@cached_until_changed(4096)
def find_body_header_fault(path: Path) -> str:
    """Return why a file's header does not match a body, or return ""."""
    try:
        fault = resnet_layout.find_body_fault(read_header(path))
    except ValueError as error:
        return f"is damaged: {error}"
    return f"is not the body of a ResNet-18: {fault}" if fault else ""


@cached_until_changed(4096)
def read_width(path: Path) -> int:
    """Return the number of inputs to the last layer."""
    return read_header(path)[HEAD_TENSORS[0]].shape[1]


@cached_until_changed(256)
def find_fault(path: Path, expected_sha256: str) -> str:
    """Return the fault that `read_weights` finds in a file's content, or "".

    Does not catch OSError, because such an error may be temporary and must not be cached.
    """
    try:
        read_weights(path, expected_sha256)
    except BrokenVersionError as error:
        return str(error)
    return ""


def read_weights(path: Path, expected_sha256: str) -> State:
    """Read the weights in a version's own file.

    Raises OSError if the file cannot be read. Raises BrokenVersionError if its content is invalid,
    does not match the hash or is not finite.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        if sha256(path) != expected_sha256:
            raise BrokenVersionError(f"{name} differs from its sha256")
        _, state = read_tensors(path)
    except ValueError as error:
        raise BrokenVersionError(f"{name} cannot be read: {error}") from None
    if tensor := find_not_finite(state):
        raise BrokenVersionError(f"{name} is damaged: {tensor} contains NaN or infinite numbers")
    return state


def _types(file: Any) -> dict[str, TensorType]:
    found = {}
    for name in file.keys():  # noqa: SIM118  # not a dict
        view = file.get_slice(name)
        found[name] = TensorType(view.get_dtype(), tuple(view.get_shape()))
        if found[name].dtype not in DTYPES:
            raise ValueError(f"{name!r:.80} is {found[name].dtype}, not one of {', '.join(DTYPES)}")
    return found
