"""Look up which class a version predicts for images, using only what is saved with the version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from backend.base.arrays import Probs
from backend.base.classes import ClassList
from backend.measures.calibration import rescale
from backend.network.head import Head
from backend.store import model_outputs
from backend.store.model_outputs import EMBEDDINGS
from backend.store.registry import Registry
from backend.store.version_meta import Meta


class PredictedLabel(NamedTuple):
    """The class that a version considers most likely for an image."""

    label: str
    confidence: float  # the calibrated probability of this class


def predicted_labels(
    root: Path,
    meta: Meta,
    image_ids: Set[str],
    classes: ClassList,
    data_dir: Path,
    pool_name: str,
) -> dict[str, PredictedLabel]:
    """Return a version's prediction for each of these images that it has scored or can score now.

    An image can be scored if its embedding is saved. Images that are not decoded yet, for example,
    have no prediction.
    """
    found: dict[str, PredictedLabel] = {}
    for saved_ids, probs in _saved_probs(root, meta, data_dir, pool_name):
        rows = [row for row, i in enumerate(saved_ids) if i in image_ids and i not in found]
        if not rows:
            continue
        aligned = classes.align(probs[rows])
        columns = aligned.argmax(axis=1).tolist()
        for row, column, probs_of_image in zip(rows, columns, aligned, strict=True):
            confidence = float(probs_of_image[column])
            found[saved_ids[row]] = PredictedLabel(classes.names[column], confidence)
        if len(found) == len(image_ids):
            break
    return found


def _saved_probs(
    root: Path, meta: Meta, data_dir: Path, pool_name: str
) -> Iterator[tuple[Sequence[str], Probs]]:
    """Yield saved probabilities, the most exact first; an image may be in several of them."""
    if (of_pool := model_outputs.load_pool_probs(root, meta.version)) is not None:
        yield of_pool
    if (sample := model_outputs.load_sample_probs(root, meta.version)) is not None:
        yield sample.image_ids, sample.probs
    if not meta.body_key:
        return
    head = Head.of(Registry(root).load_own_state(meta.version))
    width = head.weight.shape[1]
    for folder in (root / EMBEDDINGS, data_dir / EMBEDDINGS):
        path = model_outputs.embeddings_path(folder, meta.body_key, meta.view, pool_name)
        if (kept := model_outputs.load_embeddings(path, width)) is not None:
            yield kept[0], rescale(head.probs(kept[1]), meta.temperature)
