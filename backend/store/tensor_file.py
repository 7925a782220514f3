"""Read and write safetensors files as numpy arrays, and check them."""

from __future__ import annotations

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

from backend.network.resnet_layout import TensorType

log = logging.getLogger(__name__)

DTYPES = ("F16", "F32", "F64", "I64")  # the types we write; numpy lacks some of the others


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a file atomically; OSError if writing fails."""
    draft = path.with_suffix(f".draft-{os.getpid()}")
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        safetensors.numpy.save_file(whole, draft, metadata)
    except safetensors.SafetensorError as error:  # for example, the disk is full
        raise OSError(str(error)) from error
    draft.replace(path)


def read_header(path: Path) -> dict[str, TensorType]:
    """Return the types of a file's tensors without reading the tensors.

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
        log.warning("%s is damaged and left out: %.300s", path, error)


def find_array(
    arrays: Mapping[str, NDArray[Any]], name: str, kind: str, n_axes: int
) -> NDArray[Any]:
    """Return an array by name; ValueError unless its kind ("f" or "i") and n_axes match."""
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"{name} is missing")
    if array.dtype.kind != kind or array.ndim != n_axes:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    return array


def _types(file: Any) -> dict[str, TensorType]:
    found = {}
    for name in file.keys():  # noqa: SIM118  # not a dict
        view = file.get_slice(name)
        found[name] = TensorType(view.get_dtype(), tuple(view.get_shape()))
        if found[name].dtype not in DTYPES:
            raise ValueError(f"{name!r:.80} is {found[name].dtype}, not one of {', '.join(DTYPES)}")
    return found
