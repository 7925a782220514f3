"""Find, save and load a version's class probabilities and its body's embeddings of a pool.

Outputs can be recomputed, so a damaged file is logged and treated as missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Labels, Probs
from backend.base.errors import NoModelError
from backend.images.framing import View
from backend.store.earlier_outputs import take_over_rows
from backend.store.files import cached_until_changed, folder_errors
from backend.store.place import LocalPlace, Place, find_place
from backend.store.project_record import read_former, read_record
from backend.store.registry import Registry
from backend.store.row_store import MANIFEST, RowStore, StoredRows
from backend.store.tensor_file import (
    IMAGE_IDS,
    State,
    damage_logged,
    find_array,
    read_tensors,
    write_tensors,
)

POOL = "pool"  # the folder for a version's probabilities for the pool, in its own folder
SAMPLE_FILE = "sample.safetensors"
EMBEDDINGS = "embeddings"  # the folder for bodies' embeddings, in a project's folder and DATA_DIR
CLUSTER = "cluster"  # the folder for checkpoints of training and adapting on a Ray cluster
UNLABELED = -1
ROUNDING = 0.01  # how far the sum of a row of probabilities may deviate from 1


def own_embeddings(root: Path, store: str) -> Place:
    """Return the folder for embeddings of bodies trained or adapted in a project."""
    return find_place(store).below(root.name).below(EMBEDDINGS) if store else _local(root)


def shared_embeddings(data_dir: Path, store: str) -> Place:
    """Return the folder for embeddings of pre-trained weights, which all projects share."""
    return find_place(store).below(EMBEDDINGS) if store else _local(data_dir)


def cluster_place(root: Path, store: str) -> Place:
    """Return the folder in which a Ray cluster keeps the checkpoints of a project's training."""
    return find_place(store or root.parent).below(root.name).below(CLUSTER)


def _local(folder: Path) -> Place:
    return LocalPlace(folder / EMBEDDINGS)


def embeddings_store(
    folder: Place, body_key: str, view: View, pool_name: str, width: int
) -> RowStore[np.float16]:
    """Return the store of a body's embeddings of a pool, below a folder for all bodies."""
    pool_key = hashlib.sha256(pool_name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    name = f"{body_key}-{view.image_size}px-{view.framing}-{pool_key}"
    store = RowStore(folder.below(name), np.float16, width)
    if isinstance(folder, LocalPlace):
        take_over_rows(store, folder.path / f"{name}.safetensors", "embeddings")
    return store


def pool_probs_store(root: Path, version: str) -> RowStore[np.float32]:
    """Return the store of a version's probabilities for the pool, with a column for each class.

    They can be read without a model.
    """
    width = len(Registry(root).read_meta(version).classes)
    store = RowStore(LocalPlace(root / version / POOL), np.float32, width)
    take_over_rows(store, root / version / f"{POOL}.safetensors", "probs")
    return store


def save_pool_probs(root: Path, version: str, image_ids: Sequence[str], probs: Probs) -> None:
    """Save a version's probabilities for some images in the pool.

    Raises NoModelError if any of them is NaN.
    """
    if not np.isfinite(probs).all():
        raise nan_error(version)
    store = pool_probs_store(root, version)
    store.publish(store.write_all(image_ids, probs))


def load_pool_probs(root: Path, version: str) -> StoredRows[np.float32] | None:
    """Return a version's saved probabilities for the pool, or None if there are none."""
    store = pool_probs_store(root, version)
    with suppress(FileNotFoundError):
        return _open_rows(root / version / POOL / MANIFEST, store.width)
    return None


@cached_until_changed(4)  # remembers the image ids between requests
def _open_rows(manifest: Path, width: int) -> StoredRows[np.float32] | None:
    return RowStore(LocalPlace(manifest.parent), np.float32, width).open()


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
    """Load the saved validation labels, and a row of `Probs` for each label.

    Returns None if the file is missing or damaged.
    """
    path = _path(root, version, "validation")
    with damage_logged(path):
        _, arrays = read_tensors(path)
        labels = find_array(arrays, "labels", "i", 1)
        probs = _find_probs(root, version, arrays, len(labels))
        _check_rows(probs)
        _check_labels(root, labels, probs.shape[1])
        return labels, probs
    return None


@dataclass(frozen=True)
class SampleProbs:
    """A version's outputs for the validation sample, which annotators label gradually."""

    image_ids: tuple[str, ...]
    probs: Probs
    labels: Labels  # (images,), UNLABELED if no label is decided yet

    @property
    def is_labeled(self) -> NDArray[np.bool_]:
        """Return for each image whether its label is decided, (images,)."""
        return self.labels != UNLABELED


def save_sample_probs(root: Path, version: str, sample: SampleProbs) -> None:
    """Save a version's outputs for the validation sample.

    Pruning keeps this file, so that all versions can be measured on the same labels.
    """
    with folder_errors(root):
        write_tensors(
            root / version / SAMPLE_FILE,
            {"probs": sample.probs, "labels": sample.labels},
            {"image_ids": json.dumps(sample.image_ids)},
        )


def load_sample_probs(root: Path, version: str) -> SampleProbs | None:
    """Load a version's outputs for the validation sample, or return None if they are unusable."""
    path = root / version / SAMPLE_FILE
    with damage_logged(path):
        metadata, arrays = read_tensors(path)
        image_ids = IMAGE_IDS.validate_json(metadata.get("image_ids", ""))
        labels = find_array(arrays, "labels", "i", 1)
        if len(labels) != len(image_ids):
            raise ValueError(f"{len(labels)} labels for {len(image_ids)} images")
        probs = _find_probs(root, version, arrays, len(image_ids))
        _check_rows(probs)
        _check_labels(root, labels[labels != UNLABELED], probs.shape[1])
        return SampleProbs(image_ids, probs, labels)
    return None


def load_validation_probs(root: Path, version: str, labels: Labels) -> Probs | None:
    """Load the validation probabilities saved for exactly these labels, or return None."""
    kept = load_validation(root, version)
    return kept[1] if kept is not None and np.array_equal(kept[0], labels) else None


def _find_probs(root: Path, version: str, arrays: State, n_rows: int) -> Probs:
    """Return the array `probs`.

    Raises ValueError if the array does not have `n_rows` rows and one column per class.
    """
    probs = find_array(arrays, "probs", "f", 2)
    expected = [n_rows, len(Registry(root).read_meta(version).classes)]
    if list(probs.shape) != expected:
        raise ValueError(f"probs has the shape {list(probs.shape)}, not {expected}")
    return probs


def _check_rows(probs: Probs) -> None:
    in_range = (probs >= -ROUNDING) & (probs <= 1 + ROUNDING)  # False for NaN
    if not in_range.all() or not np.allclose(probs.sum(axis=1), 1, rtol=0, atol=ROUNDING):
        raise ValueError("probs contains rows that are not probabilities")


def _check_labels(root: Path, labels: Labels, n_known: int) -> None:
    """Raise ValueError unless all labels are classes of the project.

    The version knows `n_known` classes. Other classes may have joined the project since then.
    """
    record = read_record(root) or read_former(root)  # the project may have just been detached
    n_classes = max(n_known, len(record.classes) if record else 0)
    if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(f"labels are not all in 0..{n_classes - 1}")


def _path(root: Path, version: str, split: str) -> Path:
    return root / version / f"{split}.safetensors"
