"""Look up the labels that a pool's source knows, for seed labels and simulations."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

import numpy as np

from backend.base.errors import PoolError
from backend.images.pool import Pool
from backend.images.splits import draw_balanced

log = logging.getLogger(__name__)


def true_labels(pool: Pool) -> dict[str, str]:
    """Return a mapping from image id to known label, for seed labels and simulations.

    Images that are waiting to be decoded are included.
    """
    if pool.source is not None:
        labels = pool.source.known_labels()
        return {image_id: label for image_id, label in labels.items() if label in pool.classes}
    try:
        image_ids = json.loads((pool.folder / "index.json").read_text())["image_ids"]
        positions = np.load(pool.folder / "train_labels.npy")
    except OSError as error:
        raise PoolError(f"the pool's cache is missing ({error}): start again") from error
    known = {i: pool.classes[label] for i, label in zip(image_ids, positions, strict=True)}
    return {i: known[i] for i in pool.image_ids}


def seed_labels(
    pool: Pool, count: int, seed: int, truth: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Draw up to `count` images with known labels, balanced over the classes.

    If `truth` is not given, the known labels are looked up.
    """
    known = true_labels(pool) if truth is None else truth
    if count > len(known):
        log.warning(
            "SEED_LABELS=%d: only %d images in the pool have a known label", count, len(known)
        )
    image_ids = list(known)
    labels = np.array([pool.classes.index(label) for label in known.values()], dtype=np.int64)
    rows = draw_balanced(image_ids, labels, count, f"seed-labels-{seed}")
    return {image_ids[row]: known[image_ids[row]] for row in rows}
