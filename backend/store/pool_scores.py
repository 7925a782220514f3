"""Cache probabilities by version and embeddings by body for all images of a pool.

All of it can be computed again, so a damaged file is logged and treated as missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from backend.base.arrays import Embeddings, Labels, Probs
from backend.base.errors import NoModelError
from backend.store.files import cached_until_changed, folder_errors
from backend.store.registry import Registry
from backend.store.tensor_file import find_not_finite, read_tensors, write_tensors

log = logging.getLogger(__name__)

ROUNDING = 0.01  # how far a row of probabilities may lie from a sum of 1
_IMAGE_IDS = TypeAdapter(tuple[str, ...])


@dataclass(frozen=True)
class PoolEmbeddings:
    """One body's embeddings of all images of a pool, (images, width) for each split."""

    pool: Embeddings
    validation: Embeddings
    test: Embeddings


def save_pool_probs(root: Path, version: str, image_ids: Sequence[str], probs: Probs) -> None:
    """Save a version's probabilities for the pool, so that no model is needed to look them up."""
    with folder_errors(root):
        write_tensors(
            _pool_path(root, version), {"probs": probs}, {"image_ids": json.dumps(image_ids)}
        )


def load_pool_probs(root: Path, version: str) -> tuple[tuple[str, ...], Probs] | None:
    """Load what save_pool_probs wrote, or None: image ids, and a row of `Probs` for each.

    NoModelError if they hold NaN, because scoring the pool again would give the same.
    """
    path = _pool_path(root, version)
    with _damage_logged(path):
        metadata, arrays = read_tensors(path)
        image_ids = _IMAGE_IDS.validate_json(metadata.get("image_ids", ""))
        n_classes = len(Registry(root).read_meta(version).classes)
        probs = _probs(arrays, (len(image_ids), n_classes))
        if not np.isfinite(probs).all():
            raise nan_error(version)
        _check_rows(probs)
        return image_ids, probs
    return None


def nan_error(version: str) -> NoModelError:
    """Return the error for a version whose probabilities are NaN."""
    return NoModelError(
        f"the probabilities of {version} hold NaN: put another version in service with "
        "`python -m scripts.models promote <version>`"
    )


def save_validation_probs(root: Path, version: str, labels: Labels, probs: Probs) -> None:
    """Save a version's probabilities for the validation split, to compare the next one with."""
    with folder_errors(root):
        write_tensors(_validation_path(root, version), {"probs": probs, "labels": labels})


def load_validation(root: Path, version: str) -> tuple[Labels, Probs] | None:
    """Load what save_validation_probs wrote, or None: labels, and a row of `Probs` for each."""
    path = _validation_path(root, version)
    with _damage_logged(path):
        _, arrays = read_tensors(path)
        labels = _array(arrays, "labels", "i", 1)
        n_classes = len(Registry(root).read_meta(version).classes)
        probs = _probs(arrays, (len(labels), n_classes))
        _check_rows(probs)
        if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
            raise ValueError(f"labels are not all in 0..{n_classes - 1}")
        return labels, probs
    return None


def load_validation_probs(root: Path, version: str, labels: Labels) -> Probs | None:
    """Load the probabilities that save_validation_probs wrote for these labels, or None."""
    kept = load_validation(root, version)
    return kept[1] if kept is not None and np.array_equal(kept[0], labels) else None


def save_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str], kept: PoolEmbeddings
) -> None:
    """Save a body's embeddings of a pool, so that its heads need no forward pass."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, vars(kept))


def load_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> PoolEmbeddings | None:
    """Load what save_embeddings wrote for the same body, size and pool, or None."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    with _damage_logged(path):
        return _read_embeddings(path, len(image_ids))
    return None


# A head and the order that follows it read the same file of 100 MB.
@cached_until_changed(1)
def _read_embeddings(path: Path, n_images: int) -> PoolEmbeddings:
    _, arrays = read_tensors(path)
    splits = [_array(arrays, split.name, "f", 2) for split in fields(PoolEmbeddings)]
    if len({rows.shape[1] for rows in splits}) > 1 or len(splits[0]) != n_images:
        raise ValueError("the embeddings are of another pool or of several widths")
    if name := find_not_finite(arrays):
        raise ValueError(f"{name} holds NaN or infinite numbers")
    return PoolEmbeddings(*splits)


@contextmanager
def _damage_logged(path: Path) -> Iterator[None]:
    """Suppress the error of a file that is missing or damaged; log the damage."""
    try:
        yield
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("%s is damaged and left out: %.300s", path, error)


def _array(arrays: Mapping[str, NDArray[Any]], name: str, kind: str, n_axes: int) -> NDArray[Any]:
    """Return an array by name; ValueError unless it has that kind ("f" or "i") and n_axes."""
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
        raise ValueError("probs holds rows that are not probabilities")


def _pool_path(root: Path, version: str) -> Path:
    return root / version / "pool.safetensors"


def _validation_path(root: Path, version: str) -> Path:
    return root / version / "validation.safetensors"


def _embeddings_path(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> Path:
    fingerprint = hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:16]
    return folder / f"{body_key}-{image_size}px-{fingerprint}.safetensors"
