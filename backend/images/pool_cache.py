"""Keep the images of CIFAR-10 or the digits on disk as arrays.

A cache folder contains
    train.npy, test.npy                  uint8 (images, height, width, 3); test may be empty
    train_labels.npy, test_labels.npy    int64 (images,), positions in the classes
    index.json                           ids of the train images
    meta.json                            classes, may_flip
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.base.errors import PoolError

log = logging.getLogger(__name__)

CACHE_FORMAT = 1


@dataclass(frozen=True, eq=False, repr=False)
class CachedImages:
    """What a cache folder contains; images are mapped, not read."""

    image_ids: list[str]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]
    may_flip: bool


def open_cache(
    data_dir: Path, source: str, fingerprint: str, write: Callable[[Path], None]
) -> Path:
    """Return the cache folder of a source. If the folder does not exist, `write` fills it.

    No reader ever sees a partly filled folder, and only one process fills it at a time.
    """
    pools = data_dir / "pools"
    folder = pools / f"{source}-{fingerprint}-v{CACHE_FORMAT}"
    if folder.exists():
        return folder
    pools.mkdir(parents=True, exist_ok=True)
    with (pools / f"{source}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("pool: waiting for another process to fill %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        draft = pools / f"{source}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            write(draft)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        # A process that has mapped an outdated cache can still use its images.
        for outdated in set(pools.glob(f"{source}-*")) - {folder}:
            shutil.rmtree(outdated, ignore_errors=True)
    return folder


def find_cache(data_dir: Path, source: str) -> Path | None:
    """Return the cache folder of a source regardless of its fingerprint, or None."""
    kept = list((data_dir / "pools").glob(f"{source}-*-v{CACHE_FORMAT}"))
    return kept[0] if len(kept) == 1 else None


def write_split(draft: Path, split: str, images: NDArray[np.uint8], labels: Sequence[int]) -> None:
    """Write the images and labels of a split."""
    np.save(draft / f"{split}.npy", np.ascontiguousarray(images))
    write_labels(draft, split, labels)


def write_labels(draft: Path, split: str, labels: Sequence[int]) -> None:
    """Write the labels of a split, as positions in the classes."""
    np.save(draft / f"{split}_labels.npy", np.asarray(labels, dtype=np.int64))


def write_meta(
    draft: Path, image_ids: Sequence[str], classes: Sequence[str], *, may_flip: bool
) -> None:
    """Write index.json and meta.json."""
    (draft / "index.json").write_text(json.dumps({"image_ids": image_ids}))
    meta = {"classes": classes, "may_flip": may_flip}
    (draft / "meta.json").write_text(json.dumps(meta, indent=1))


def read_cache(folder: Path) -> CachedImages:
    """Read a cache folder. Raises PoolError if the cache is damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        return CachedImages(
            image_ids=json.loads((folder / "index.json").read_text())["image_ids"],
            images=np.load(folder / "train.npy", mmap_mode="r"),
            labels=np.load(folder / "train_labels.npy"),
            test=np.load(folder / "test.npy", mmap_mode="r"),
            test_labels=np.load(folder / "test_labels.npy"),
            classes=tuple(meta["classes"]),
            may_flip=meta["may_flip"],
        )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise PoolError(
            f"the cache {folder} is damaged ({error!r}): delete this folder, then start again"
        ) from error
