"""Save and load a version's class probabilities and its body's embeddings of a pool.

Outputs can be recomputed, so a damaged file is logged and treated as missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from backend.base.arrays import Embeddings, Labels, Probs
from backend.base.errors import NoModelError
from backend.images.framing import View
from backend.store.files import cached_until_changed, folder_errors
from backend.store.project_record import read_former, read_record
from backend.store.registry import Registry
from backend.store.tensor_file import (
    State,
    damage_logged,
    find_array,
    find_not_finite,
    read_tensors,
    write_tensors,
)

SAMPLE_FILE = "sample.safetensors"
EMBEDDINGS = "embeddings"  # the folder for bodies' embeddings, in a project's folder and DATA_DIR
UNLABELED = -1
ROUNDING = 0.01  # how far the sum of a row of probabilities may deviate from 1
_IMAGE_IDS = TypeAdapter(tuple[str, ...])


def save_embeddings(path: Path, image_ids: Sequence[str], embeddings: Embeddings) -> None:
    """Save a body's embeddings, so that its heads can be fitted without a forward pass."""
    with folder_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"image_ids": json.dumps(image_ids)}
        write_tensors(path, {"embeddings": embeddings}, metadata)


def load_embeddings(path: Path, width: int) -> tuple[tuple[str, ...], Embeddings] | None:
    """Load saved embeddings: image ids, and a row of `width` numbers for each.

    Returns None if the embeddings are missing or unusable.
    """
    with damage_logged(path):
        image_ids, embeddings = _read_embeddings(path)
        if embeddings.shape[1] != width:
            raise ValueError(f"the embeddings are {embeddings.shape[1]} wide, not {width}")
        return image_ids, embeddings
    return None


def embeddings_path(folder: Path, body_key: str, view: View, pool_name: str) -> Path:
    """Return the path of the file for a body's embeddings of a pool."""
    pool_key = hashlib.sha256(pool_name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return folder / f"{body_key}-{view.image_size}px-{view.framing}-{pool_key}.safetensors"


def save_pool_probs(root: Path, version: str, image_ids: Sequence[str], probs: Probs) -> None:
    """Save a version's probabilities for the pool so that they can be read without a model."""
    with folder_errors(root):
        write_tensors(
            _path(root, version, "pool"), {"probs": probs}, {"image_ids": json.dumps(image_ids)}
        )


def load_pool_probs(root: Path, version: str) -> tuple[tuple[str, ...], Probs] | None:
    """Load the saved pool probabilities: image ids, and a row of `Probs` for each.

    Returns None if the file is missing or damaged. Raises NoModelError if the probabilities contain
    NaN, because scoring the pool again would give the same result.
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
        image_ids = _IMAGE_IDS.validate_json(metadata.get("image_ids", ""))
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


# A fit of a head and the ordering of tasks that follows it read the same 100 MB file.
@cached_until_changed(1)
def _read_embeddings(path: Path) -> tuple[tuple[str, ...], Embeddings]:
    metadata, arrays = read_tensors(path)
    image_ids = _IMAGE_IDS.validate_json(metadata.get("image_ids", ""))
    embeddings = find_array(arrays, "embeddings", "f", 2)
    if len(embeddings) != len(image_ids):
        raise ValueError(f"{len(embeddings)} embeddings for {len(image_ids)} images")
    if find_not_finite(arrays):
        raise ValueError("the embeddings contain NaN or infinite numbers")
    return image_ids, embeddings


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
