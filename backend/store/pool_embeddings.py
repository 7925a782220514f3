"""Save and load a body's embeddings of a pool.

Embeddings can be recomputed, so a damaged file is logged and treated as missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from backend.base.arrays import Embeddings
from backend.store.files import cached_until_changed, folder_errors
from backend.store.tensor_file import (
    damage_logged,
    find_array,
    find_not_finite,
    read_tensors,
    write_tensors,
)


@dataclass(frozen=True)
class PoolEmbeddings:
    """One body's embeddings of all images of a pool, (images, width) for each split."""

    pool: Embeddings
    validation: Embeddings
    test: Embeddings


def save_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str], kept: PoolEmbeddings
) -> None:
    """Save a body's embeddings of a pool so that its heads can be fitted without a forward pass."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, vars(kept))


def load_embeddings(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> PoolEmbeddings | None:
    """Load what save_embeddings wrote for the same body, size and pool, or None."""
    path = _embeddings_path(folder, body_key, image_size, image_ids)
    with damage_logged(path):
        return _read_embeddings(path, len(image_ids))
    return None


# Fitting a head and then ordering the open tasks both read the same 100 MB file.
@cached_until_changed(1)
def _read_embeddings(path: Path, n_images: int) -> PoolEmbeddings:
    _, arrays = read_tensors(path)
    splits = [find_array(arrays, split.name, "f", 2) for split in fields(PoolEmbeddings)]
    if len({rows.shape[1] for rows in splits}) > 1 or len(splits[0]) != n_images:
        raise ValueError("the embeddings are of another pool or of several widths")
    if name := find_not_finite(arrays):
        raise ValueError(f"{name} holds NaN or infinite numbers")
    return PoolEmbeddings(*splits)


def _embeddings_path(
    folder: Path, body_key: str, image_size: int, image_ids: Sequence[str]
) -> Path:
    fingerprint = hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:16]
    return folder / f"{body_key}-{image_size}px-{fingerprint}.safetensors"
