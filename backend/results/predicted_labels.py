"""Look up which class a version predicts for images, using only what is saved with the version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Probs
from backend.base.classes import ClassList
from backend.measures.calibration import rescale
from backend.network.head import Head
from backend.store import model_outputs
from backend.store.model_outputs import embeddings_store
from backend.store.place import Place
from backend.store.registry import Registry
from backend.store.row_store import StoredRows
from backend.store.version_meta import Meta


class PredictedLabel(NamedTuple):
    """The class that a version considers most likely for an image."""

    label: str
    confidence: float  # the calibrated probability of this class


def predicted_labels(
    root: Path,
    meta: Meta,
    image_ids: Sequence[str],
    classes: ClassList,
    folders: Sequence[Place],
    pool_name: str,
) -> dict[str, PredictedLabel]:
    """Return a version's prediction for each of these images that it has scored or can score now.

    An image can be scored if its embedding is saved in one of the folders. Images that are not
    decoded yet, for example, have no prediction.
    """
    found: dict[str, PredictedLabel] = {}
    for known, probs in _saved_probs(root, meta, image_ids, folders, pool_name):
        aligned = classes.align(probs)
        columns = aligned.argmax(axis=1).tolist()
        for image_id, column, probs_of_image in zip(known, columns, aligned, strict=True):
            prediction = PredictedLabel(classes.names[column], float(probs_of_image[column]))
            found.setdefault(image_id, prediction)
        if len(found) == len(image_ids):
            break
    return found


def _saved_probs(
    root: Path, meta: Meta, image_ids: Sequence[str], folders: Sequence[Place], pool_name: str
) -> Iterator[tuple[Sequence[str], Probs]]:
    """Yield saved probabilities of some of the images, the most exact first.

    An image may be in several of them.
    """
    if (of_pool := model_outputs.load_pool_probs(root, meta.version)) is not None:
        known, rows = _find(of_pool, image_ids)
        yield known, of_pool[rows]
    if (sample := model_outputs.load_sample_probs(root, meta.version)) is not None:
        row_of = {image_id: row for row, image_id in enumerate(sample.image_ids)}
        known = [image_id for image_id in image_ids if image_id in row_of]
        yield known, sample.probs[[row_of[image_id] for image_id in known]]
    if not meta.body_key:
        return
    head = Head.of(Registry(root).load_own_state(meta.version))
    width = head.weight.shape[1]
    for folder in folders:
        store = embeddings_store(folder, meta.body_key, meta.view, pool_name, width)
        if (embedded := store.open()) is not None:
            known, rows = _find(embedded, image_ids)
            yield known, rescale(head.probs(embedded[rows]), meta.temperature)


def _find(
    stored: StoredRows[Any], image_ids: Sequence[str]
) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Return the images that have a row, and their rows."""
    rows = stored.find(image_ids)
    return [image_ids[at] for at in np.flatnonzero(rows >= 0)], rows[rows >= 0]
