"""Choose which images with known labels to hold out for validation."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.images.digest import digest
from backend.images.index import Index
from backend.images.listing import Listing
from backend.images.pool_cache import find_cache
from backend.images.splits import draw_validation


def can_hold_out(listing: Listing) -> bool:
    """Return whether a first listing contains images with known labels that can be held out."""
    if any(image.split == "validation" for image in listing.images):
        return True
    return _may_hold_out(listing) and bool(_draw(Index.empty("").merge(listing).index, seed=0))


def choose_validation(index: Index, listing: Listing, data_dir: Path, seed: int) -> list[str]:
    """Choose the images to hold out, repeating an earlier release's choice if its cache exists.

    Returns no images if the source itself assigns validation images or if an image lacks a label.
    """
    if not _may_hold_out(listing):
        return []
    if cache := find_cache(data_dir, f"folder-{digest(index.source)}"):
        with suppress(OSError, ValueError, KeyError):
            cached_ids = json.loads((cache / "index.json").read_text())["image_ids"]
            is_known = np.isin(np.array(cached_ids, dtype=object), index.image_ids[_labeled(index)])
            held_out = draw_validation(cached_ids, np.load(cache / "train_labels.npy"), seed)
            return [cached_ids[row] for row in held_out if is_known[row]]
    return _draw(index, seed)


def _may_hold_out(listing: Listing) -> bool:
    return not any(image.split in ("", "validation") for image in listing.images)


def _labeled(index: Index) -> NDArray[np.bool_]:
    return (index.splits == "pool") & (index.labels != "")


def _draw(index: Index, seed: int) -> list[str]:
    is_labeled = _labeled(index)
    ids, labels = index.image_ids[is_labeled], index.labels[is_labeled]
    _, positions = np.unique(labels.astype(str), return_inverse=True)
    return [str(ids[row]) for row in draw_validation(ids.tolist(), positions, seed)]
