"""Store a version's class probabilities for the pool and the validation split with its weights.

Probabilities can be recomputed, so a damaged file is logged and treated as missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from backend.base.arrays import Labels, Probs
from backend.base.errors import NoModelError
from backend.store.files import folder_errors
from backend.store.registry import Registry
from backend.store.tensor_file import damage_logged, find_array, read_tensors, write_tensors

ROUNDING = 0.01  # how far the sum of a row of probabilities may deviate from 1
_IMAGE_IDS = TypeAdapter(tuple[str, ...])


def save_pool_probs(root: Path, version: str, image_ids: Sequence[str], probs: Probs) -> None:
    """Save a version's probabilities for the pool so that they can be read without a model."""
    with folder_errors(root):
        write_tensors(
            _path(root, version, "pool"), {"probs": probs}, {"image_ids": json.dumps(image_ids)}
        )


def load_pool_probs(root: Path, version: str) -> tuple[tuple[str, ...], Probs] | None:
    """Load what save_pool_probs wrote, or None: image ids, and a row of `Probs` for each.

    NoModelError if they contain NaN, because scoring the pool again would give the same result.
    """
    path = _path(root, version, "pool")
    with damage_logged(path):
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
    """Save a version's validation probabilities for comparison with the next version."""
    with folder_errors(root):
        write_tensors(_path(root, version, "validation"), {"probs": probs, "labels": labels})


def load_validation(root: Path, version: str) -> tuple[Labels, Probs] | None:
    """Load what save_validation_probs wrote, or None: labels, and a row of `Probs` for each."""
    path = _path(root, version, "validation")
    with damage_logged(path):
        _, arrays = read_tensors(path)
        labels = find_array(arrays, "labels", "i", 1)
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


def _probs(arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int]) -> Probs:
    probs = find_array(arrays, "probs", "f", 2)
    if probs.shape != shape:
        raise ValueError(f"probs is {list(probs.shape)}, not {list(shape)}")
    return probs


def _check_rows(probs: Probs) -> None:
    in_range = (probs >= -ROUNDING) & (probs <= 1 + ROUNDING)  # False for NaN
    if not in_range.all() or not np.allclose(probs.sum(axis=1), 1, rtol=0, atol=ROUNDING):
        raise ValueError("probs holds rows that are not probabilities")


def _path(root: Path, version: str, split: str) -> Path:
    return root / version / f"{split}.safetensors"
