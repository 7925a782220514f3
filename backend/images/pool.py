"""Open the pool: the images that may be asked, and two held-out splits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.base.settings import MAX_IMAGE_PIXELS
from backend.images.cifar10 import Cifar10UnavailableError, cache_cifar10
from backend.images.class_folder import cache_folder
from backend.images.data_uri import original_uri, png_uri
from backend.images.digits import cache_digits
from backend.images.splits import draw_balanced

VALIDATION_MAX = 2000
THUMBNAIL_MAX_PX = 64


@dataclass(frozen=True, eq=False, repr=False)
class LabeledSplit:
    """Held-out images with the data set's labels."""

    images: NDArray[np.uint8]  # (images, height, width, 3)
    labels: NDArray[np.int64]  # (images,), positions in the classes


@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """All images that may be asked, without their labels (see true_labels)."""

    name: str  # "cifar10", "digits" or the folder's absolute path
    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    images: NDArray[np.uint8]  # (images, height, width, 3), memory-mapped; rows match image_ids
    validation: LabeledSplit
    test: LabeledSplit
    may_flip: bool  # whether a mirrored image keeps its class
    notice: str  # a warning to show to users, or ""
    folder: Path  # the cache folder
    paths: tuple[str, ...] = ()  # paths of the originals in a pool folder; rows match image_ids
    max_pixels: int = MAX_IMAGE_PIXELS  # the limit for an original

    def positions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of these images. Raises PoolError for an unknown id."""
        try:
            return np.array([self._rows[i] for i in image_ids], dtype=np.int64)
        except KeyError as error:
            raise PoolError(f"the pool {self.name} contains no image {error}") from None

    def data_uri(self, image_id: str) -> str:
        """Return the image for a task: the original if it exists, or a PNG of the array."""
        row = int(self.positions([image_id])[0])
        if self.paths:
            return original_uri(Path(self.name, self.paths[row]), self.max_pixels)
        return png_uri(Image.fromarray(self.images[row]))

    def thumbnail(self, image_id: str) -> str:
        """Return a small picture of what the model sees, as a data: URI."""
        picture = Image.fromarray(self.images[int(self.positions([image_id])[0])])
        picture.thumbnail((THUMBNAIL_MAX_PX, THUMBNAIL_MAX_PX))
        return png_uri(picture)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.image_ids)}


def open_pool(
    name: str,
    data_dir: Path,
    *,
    seed: int,
    rescan: bool = True,
    max_pixels: int = MAX_IMAGE_PIXELS,
    progress: Progress = lambda *_: None,
) -> Pool:
    """Open the pool `name`: auto, cifar10, digits, or the path of a folder.

    A new pool is decoded into data_dir. Images in a folder that have more than `max_pixels` are
    left out. Without `rescan`, a folder is not checked for changes. Raises PoolError.
    """
    try:
        found, cache, notice = _cache_source(name, data_dir, rescan, max_pixels, progress)
    except OSError as error:
        raise PoolError(
            f"POOL={name}: {error}; check that DATA_DIR={data_dir} is writable and has space left"
        ) from error
    try:
        return replace(_read_cache(found, cache, notice, seed), max_pixels=max_pixels)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise PoolError(
            f"the cache {cache} is damaged ({error!r}): delete this folder, then start again"
        ) from error


def true_labels(pool: Pool) -> dict[str, str]:
    """Return the true class of every image. Use only for seed labels, simulations and tests."""
    try:
        image_ids = json.loads((pool.folder / "index.json").read_text())["image_ids"]
        labels = np.load(pool.folder / "train_labels.npy")
    except OSError as error:
        raise PoolError(f"the pool's cache is missing ({error}): start again") from error
    classes = {i: pool.classes[label] for i, label in zip(image_ids, labels, strict=True)}
    return {i: classes[i] for i in pool.image_ids}


def seed_labels(
    pool: Pool, count: int, seed: int, truth: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Draw `count` images with their true labels, balanced over the classes.

    If `truth` is not given, it is looked up.
    """
    if count > len(pool.image_ids):
        raise PoolError(f"SEED_LABELS={count}: the pool has only {len(pool.image_ids)} images")
    classes = true_labels(pool) if truth is None else truth
    labels = np.array([pool.classes.index(label) for label in classes.values()])
    rows = draw_balanced(pool.image_ids, labels, count, f"seed-labels-{seed}")
    return {pool.image_ids[row]: classes[pool.image_ids[row]] for row in rows}


def _cache_source(
    name: str, data_dir: Path, rescan: bool, max_pixels: int, progress: Progress
) -> tuple[str, Path, str]:
    """Cache the source that POOL names; return the name to record, the cache and a notice."""
    notice = ""
    if name in ("auto", "cifar10"):
        try:
            return "cifar10", cache_cifar10(data_dir, progress), ""
        except Cifar10UnavailableError as error:
            if name == "cifar10":
                raise PoolError(
                    f"{error}: set POOL=digits or POOL=<folder>, "
                    f"or put cifar-10-python.tar.gz into DATA_DIR={data_dir}"
                ) from error
            notice = f"{error}: using scikit-learn's handwritten digits instead"
    if notice or name == "digits":
        return "digits", cache_digits(data_dir), notice
    try:
        folder = Path(name).expanduser().resolve()
    except RuntimeError as error:  # a symbolic link loop, or the home of an unknown user
        raise PoolError(f"POOL={name}: {error}") from None
    if not folder.is_dir():
        raise PoolError(
            f"POOL={name}: no such folder; allowed are auto, cifar10, digits or a folder's path"
        )
    cache = cache_folder(folder, data_dir, progress, max_pixels=max_pixels, rescan=rescan)
    return str(folder), cache, notice


def _read_cache(name: str, cache: Path, notice: str, seed: int) -> Pool:
    meta = json.loads((cache / "meta.json").read_text())
    index = json.loads((cache / "index.json").read_text())
    labels = np.load(cache / "train_labels.npy")
    # Copy on write, so the file never changes and torch does not warn about read-only arrays.
    images = np.load(cache / "train.npy", mmap_mode="c")
    held_out = draw_balanced(
        index["image_ids"],
        labels,
        min(VALIDATION_MAX, len(labels) // 10),
        f"validation-{seed}",
        max_share=0.5,
    )
    validation = LabeledSplit(images[held_out], labels[held_out])
    # Move the last images to the rows of held-out images, so the rest stays one mapped block.
    n_images = len(labels) - len(held_out)
    rows = np.arange(len(labels))
    rows[held_out[held_out < n_images]] = np.setdiff1d(rows[n_images:], held_out)
    moved = np.flatnonzero(rows[:n_images] != np.arange(n_images))
    images[moved] = images[rows[moved]]
    return Pool(
        name=name,
        classes=tuple(meta["classes"]),
        image_ids=tuple(index["image_ids"][row] for row in rows[:n_images]),
        images=images[:n_images],
        validation=validation,
        test=LabeledSplit(
            np.load(cache / "test.npy", mmap_mode="c"), np.load(cache / "test_labels.npy")
        ),
        may_flip=meta["may_flip"],
        notice=notice,
        folder=cache,
        paths=tuple(index["paths"][row] for row in rows[:n_images] if index["paths"]),
    )
