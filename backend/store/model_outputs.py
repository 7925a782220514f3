"""Save and load a version's class probabilities and its body's embeddings of a pool.

Outputs can be recomputed, so a damaged file is logged and treated as missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from backend.base.arrays import Embeddings, Labels, Probs
from backend.base.errors import NoModelError
from backend.store.files import cached_until_changed, folder_errors
from backend.store.registry import Registry
from backend.store.tensor_file import (
    State,
    damage_logged,
    find_array,
    find_not_finite,
    read_tensors,
    write_tensors,
)

ROUNDING = 0.01  # how far the sum of a row of probabilities may deviate from 1
_IMAGE_IDS = TypeAdapter(tuple[str, ...])


@dataclass(frozen=True)
class PoolEmbeddings:
    """One body's embeddings of all images of a pool, (images, width) for each split."""

    pool: Embeddings
    validation: Embeddings
    test: Embeddings


def save_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str], kept: PoolEmbeddings
) -> None:
    """Save a body's embeddings of a pool so that heads can be fitted without a forward pass."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, vars(kept))


def load_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> PoolEmbeddings | None:
    """Load the embeddings saved for the same body, size and pool, or return None."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    with damage_logged(path):
        return _read_embeddings(path, len(image_ids))
    return None


def save_pool_probs(root: Path, version: str, image_ids: Sequence[str], probs: Probs) -> None:
    """Save a version's probabilities for the pool so that they can be read without a model."""
    with folder_errors(root):
        write_tensors(
            _path(root, version, "pool"), {"probs": probs}, {"image_ids": json.dumps(image_ids)}
        )


def load_pool_probs(root: Path, version: str) -> tuple[tuple[str, ...], Probs] | None:
    """Load the saved pool probabilities: image ids, and a row of `Probs` for each. None if missing.

    Raises NoModelError if they contain NaN, because scoring the pool again would give the same
    result.
    """
    path = _path(root, version, "pool")
    with damage_logged(path):
        metadata, arrays = read_tensors(path)
        image_ids = _IMAGE_IDS.validate_json(metadata.get("image_ids", ""))
        probs = _find_probs(root, version, arrays, len(image_ids))
        if not np.isfinite(probs).all():
            raise nan_error(version)
        _check_rows(probs)
        return image_ids, probs
    return None


def nan_error(version: str) -> NoModelError:
    """Return the error for a version whose probabilities are NaN."""
    return NoModelError(
        f"the probabilities of {version} contain NaN: put another version in service with "
        "`python -m scripts.models promote <version>`"
    )


def save_validation_probs(root: Path, version: str, labels: Labels, probs: Probs) -> None:
    """Save a version's validation probabilities for comparison with the next version."""
    with folder_errors(root):
        write_tensors(_path(root, version, "validation"), {"probs": probs, "labels": labels})


def load_validation(root: Path, version: str) -> tuple[Labels, Probs] | None:
    """Load the saved labels and a row of `Probs` for each, or return None."""
    path = _path(root, version, "validation")
    with damage_logged(path):
        _, arrays = read_tensors(path)
        labels = find_array(arrays, "labels", "i", 1)
        probs = _find_probs(root, version, arrays, len(labels))
        _check_rows(probs)
        n_classes = probs.shape[1]
        if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
            raise ValueError(f"labels are not all in 0..{n_classes - 1}")
        return labels, probs
    return None


def load_validation_probs(root: Path, version: str, labels: Labels) -> Probs | None:
    """Load the probabilities saved for exactly these labels, or return None."""
    kept = load_validation(root, version)
    return kept[1] if kept is not None and np.array_equal(kept[0], labels) else None


# Fitting a head and ordering the open tasks read the same 100 MB file one after the other.
@cached_until_changed(1)
def _read_embeddings(path: Path, n_images: int) -> PoolEmbeddings:
    _, arrays = read_tensors(path)
    splits = [find_array(arrays, split.name, "f", 2) for split in fields(PoolEmbeddings)]
    if len({rows.shape[1] for rows in splits}) > 1 or len(splits[0]) != n_images:
        raise ValueError("the embeddings belong to another pool or differ in width")
    if name := find_not_finite(arrays):
        raise ValueError(f"{name} contains NaN or infinite numbers")
    return PoolEmbeddings(*splits)


def _embeddings_path(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> Path:
    fingerprint = hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:16]
    return folder / f"{body_key}-{image_size}px-{fingerprint}.safetensors"


def _find_probs(root: Path, version: str, arrays: State, n_rows: int) -> Probs:
    """Return the array `probs`. Raises ValueError unless it has `n_rows` rows and a column per
    class.
    """
    probs = find_array(arrays, "probs", "f", 2)
    expected = [n_rows, len(Registry(root).read_meta(version).classes)]
    if list(probs.shape) != expected:
        raise ValueError(f"probs is {list(probs.shape)}, not {expected}")
    return probs


def _check_rows(probs: Probs) -> None:
    in_range = (probs >= -ROUNDING) & (probs <= 1 + ROUNDING)  # False for NaN
    if not in_range.all() or not np.allclose(probs.sum(axis=1), 1, rtol=0, atol=ROUNDING):
        raise ValueError("probs contains rows that are not probabilities")


def _path(root: Path, version: str, split: str) -> Path:
    return root / version / f"{split}.safetensors"
