"""Keep what versions make of a pool's images: probabilities by version, embeddings by body.

All of it can be made again, so a damaged file is named in the log and counts as not kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from backend.base.arrays import Embeddings, Labels, Probs
from backend.base.errors import NoModelError
from backend.store.files import folder_errors
from backend.store.registry import Registry
from backend.store.tensor_file import find_not_finite, read_tensors, write_tensors

log = logging.getLogger(__name__)

ROUNDING = 0.01  # how far a row of probabilities may lie from a sum of 1
_IMAGE_IDS = TypeAdapter(tuple[str, ...])


@dataclass(frozen=True)
class PoolEmbeddings:
    """What one body makes of all images of a pool, (images, width) each."""

    pool: Embeddings
    validation: Embeddings
    test: Embeddings


def save_pool_probs(root: Path, version: str, image_ids: Sequence[str], probs: Probs) -> None:
    """Keep what a version thinks of the pool, so that asking or showing an image of it needs no
    model.
    """
    with folder_errors(root):
        write_tensors(
            _pool_path(root, version), {"probs": probs}, {"image_ids": json.dumps(image_ids)}
        )


def load_pool_probs(root: Path, version: str) -> tuple[tuple[str, ...], Probs] | None:
    """Load what save_pool_probs wrote, or None: image ids, and a row of `Probs` each.

    NoModelError if they hold NaN: scoring the pool again would give the same.
    """
    path = _pool_path(root, version)
    if (kept := _read(path)) is None:
        return None
    metadata, arrays = kept
    n_classes = len(Registry(root).read_meta(version).classes)
    try:
        image_ids = _IMAGE_IDS.validate_json(metadata.get("image_ids", ""))
        probs = _probs(arrays, (len(image_ids), n_classes))
        if not np.isfinite(probs).all():
            raise nan_error(version)
        _check_rows(probs)
    except ValueError as error:
        _log_damaged(path, error)
        return None
    return image_ids, probs


def nan_error(version: str) -> NoModelError:
    """What to say of a version whose probabilities are no numbers."""
    return NoModelError(
        f"the probabilities of {version} hold NaN: put another version in service with "
        "`python -m scripts.models promote <version>`"
    )


def save_validation_probs(root: Path, version: str, labels: Labels, probs: Probs) -> None:
    """Keep what a version thinks of the validation split, for the comparison with the next one."""
    with folder_errors(root):
        write_tensors(_validation_path(root, version), {"probs": probs, "labels": labels})


def load_validation(root: Path, version: str) -> tuple[Labels, Probs] | None:
    """Load what save_validation_probs wrote, or None: the data set's labels, and a row of `Probs`
    each.
    """
    path = _validation_path(root, version)
    if (kept := _read(path)) is None:
        return None
    n_classes = len(Registry(root).read_meta(version).classes)
    try:
        labels = _array(kept[1], "labels", "i", 1)
        probs = _probs(kept[1], (len(labels), n_classes))
        _check_rows(probs)
        if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
            raise ValueError(f"labels are not all in 0..{n_classes - 1}")
    except ValueError as error:
        _log_damaged(path, error)
        return None
    return labels, probs


def load_validation_probs(root: Path, version: str, labels: Labels) -> Probs | None:
    """The probabilities alone; None if not kept, or kept for other images."""
    kept = load_validation(root, version)
    return kept[1] if kept is not None and np.array_equal(kept[0], labels) else None


def save_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str], kept: PoolEmbeddings
) -> None:
    """Keep what a body makes of a pool's images, so that its heads need no forward pass."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, vars(kept))


def load_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> PoolEmbeddings | None:
    """Load what save_embeddings wrote; None if not kept, or kept for another pool."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    try:
        found = path.stat()
    except OSError:
        return None
    return _load_embeddings(path, len(image_ids), found.st_mtime_ns, found.st_size)


# A head and the order that follows it read the same file of 100 MB.
@lru_cache(maxsize=1)
def _load_embeddings(
    path: Path, n_images: int, _mtime_ns: int, _size: int
) -> PoolEmbeddings | None:
    if (kept := _read(path)) is None:
        return None
    try:
        splits = [_array(kept[1], split.name, "f", 2) for split in fields(PoolEmbeddings)]
        if len({rows.shape[1] for rows in splits}) > 1 or len(splits[0]) != n_images:
            raise ValueError("the embeddings are of another pool or of several widths")
        if name := find_not_finite(kept[1]):
            raise ValueError(f"{name} holds NaN or infinite numbers")
    except ValueError as error:
        _log_damaged(path, error)
        return None
    return PoolEmbeddings(*splits)


def _read(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]] | None:
    try:
        return read_tensors(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log_damaged(path, error)
        return None


def _log_damaged(path: Path, error: Exception) -> None:
    log.warning("%s is damaged and left out: %.300s", path, error)


def _array(arrays: Mapping[str, NDArray[Any]], name: str, kind: str, n_axes: int) -> NDArray[Any]:
    """One of the arrays, if its numbers are of that kind ("f" or "i") and it has so many axes."""
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"{name} is missing")
    if array.dtype.kind != kind or array.ndim != n_axes:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    return array


def _probs(arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> Probs:
    probs = _array(arrays, "probs", "f", 2)
    if probs.shape != shape:
        raise ValueError(f"probs is {list(probs.shape)}, not {list(shape)}")
    return probs


def _check_rows(probs: Probs) -> None:
    in_range = (probs >= -ROUNDING) & (probs <= 1 + ROUNDING)  # False for NaN
    if not in_range.all() or not np.allclose(probs.sum(axis=1), 1, rtol=0, atol=ROUNDING):
        raise ValueError("probs holds rows that are no probabilities")


def _pool_path(root: Path, version: str) -> Path:
    return root / version / "pool.safetensors"


def _validation_path(root: Path, version: str) -> Path:
    return root / version / "validation.safetensors"


def _embeddings_path(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> Path:
    return folder / f"{body_key}-{image_size}px-{_fingerprint(image_ids)}.safetensors"


def _fingerprint(image_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:16]
