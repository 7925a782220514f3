"""The pool: the name of a source in; the images we may ask about and two held-out splits out."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.base.errors import ImageError, PoolError
from backend.base.progress import Progress
from backend.base.settings import MAX_IMAGE_PIXELS
from backend.images.pixels import open_image, read_rgb
from backend.images.pool_folder import cache_folder
from backend.images.pool_sources import (
    Cifar10UnavailableError,
    balanced,
    cache_cifar10,
    cache_digits,
)

VALIDATION_MAX = 2000
# What travels in a task as it is; larger originals travel as a smaller JPEG.
TASK_IMAGE_MAX_BYTES = 1_000_000
TASK_IMAGE_MAX_PX = 1024
THUMBNAIL_MAX_PX = 64


@dataclass(frozen=True, eq=False, repr=False)
class LabeledSplit:
    """Images that are held out, with the data set's own labels."""

    images: NDArray[np.uint8]  # (images, height, width, 3)
    labels: NDArray[np.int64]  # (images,), positions in the classes


@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """All images we may ask about. It holds no label of them: see true_labels."""

    name: str  # "cifar10", "digits" or the folder's absolute path
    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    images: NDArray[np.uint8]  # (images, height, width, 3), memory-mapped; rows match image_ids
    validation: LabeledSplit
    test: LabeledSplit
    may_flip: bool  # a mirrored image keeps its class
    notice: str  # what must be said loudly, or ""
    folder: Path  # the cache
    paths: tuple[str, ...] = ()  # of the originals below a pool folder; rows match image_ids
    max_pixels: int = MAX_IMAGE_PIXELS  # of an original

    def positions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """The rows of these images."""
        try:
            return np.array([self._rows[i] for i in image_ids], dtype=np.int64)
        except KeyError as error:
            raise PoolError(f"no image {error} in the pool {self.name}") from None

    def data_uri(self, image_id: str) -> str:
        """What a task carries: the original where there is one, else a PNG of the array."""
        row = int(self.positions([image_id])[0])
        if self.paths:
            return _task_image(Path(self.name, self.paths[row]), self.max_pixels)
        return _png(Image.fromarray(self.images[row]))

    def thumbnail(self, image_id: str) -> str:
        """A small picture of what the model sees, as a data: URI."""
        picture = Image.fromarray(self.images[int(self.positions([image_id])[0])])
        picture.thumbnail((THUMBNAIL_MAX_PX, THUMBNAIL_MAX_PX))
        return _png(picture)

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
    """Open auto, cifar10, digits or a folder by its path; decoded into data_dir the first time.

    A folder's images of more than `max_pixels` are left out. Without `rescan` nobody looks whether
    a folder has changed since.
    """
    try:
        found, cache, notice = _find(name, data_dir, rescan, max_pixels, progress)
    except OSError as error:
        raise PoolError(
            f"POOL={name}: {error}; see that DATA_DIR={data_dir} can be written and has space left"
        ) from error
    try:
        return replace(_open_cache(found, cache, notice, seed), max_pixels=max_pixels)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise PoolError(f"the cache {cache} is damaged ({error!r}): delete it") from error


def true_labels(pool: Pool) -> dict[str, str]:
    """The data set's class of every image: for seed labels, simulations, tests; not training."""
    try:
        image_ids = json.loads((pool.folder / "index.json").read_text())["image_ids"]
        labels = np.load(pool.folder / "train_labels.npy")
    except OSError as error:
        raise PoolError(f"the pool's cache is gone ({error}): start again") from error
    classes = {i: pool.classes[label] for i, label in zip(image_ids, labels, strict=True)}
    return {i: classes[i] for i in pool.image_ids}


def seed_labels(
    pool: Pool, count: int, seed: int, truth: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`count` images with their true labels (looked up if not given), the classes as even as their
    sizes allow.
    """
    if count > len(pool.image_ids):
        raise PoolError(f"SEED_LABELS={count}: the pool has only {len(pool.image_ids)} images")
    classes = true_labels(pool) if truth is None else truth
    labels = np.array([pool.classes.index(label) for label in classes.values()])
    rows = balanced(pool.image_ids, labels, count, f"seed-labels-{seed}")
    return {pool.image_ids[row]: classes[pool.image_ids[row]] for row in rows}


def _find(
    name: str, data_dir: Path, rescan: bool, max_pixels: int, progress: Progress
) -> tuple[str, Path, str]:
    """(the name to record, the cache, the notice) of what POOL asks for."""
    if name == "digits":
        return name, cache_digits(data_dir), ""
    if name in ("auto", "cifar10"):
        try:
            return "cifar10", cache_cifar10(data_dir, progress), ""
        except Cifar10UnavailableError as error:
            if name == "cifar10":
                raise PoolError(
                    f"{error}: set POOL=digits or POOL=<folder>, "
                    f"or put cifar-10-python.tar.gz into DATA_DIR={data_dir}"
                ) from error
            notice = f"{error}: using scikit-learn's handwritten digits in its place"
            return "digits", cache_digits(data_dir), notice
    try:
        folder = Path(name).expanduser().resolve()
    except RuntimeError as error:  # a link in a circle, or nobody's home
        raise PoolError(f"POOL={name}: {error}") from None
    if not folder.is_dir():
        raise PoolError(
            f"POOL={name}: no such folder; allowed are auto, cifar10, digits or a folder's path"
        )
    cache = cache_folder(folder, data_dir, progress, max_pixels=max_pixels, rescan=rescan)
    return str(folder), cache, ""


def _open_cache(name: str, cache: Path, notice: str, seed: int) -> Pool:
    meta = json.loads((cache / "meta.json").read_text())
    index = json.loads((cache / "index.json").read_text())
    labels = np.load(cache / "train_labels.npy")
    # Copy on write: the file stays as it is, and torch does not warn of read-only arrays.
    images = np.load(cache / "train.npy", mmap_mode="c")
    held_out = balanced(
        index["image_ids"],
        labels,
        min(VALIDATION_MAX, len(labels) // 10),
        f"validation-{seed}",
        max_share=0.5,
    )
    validation = LabeledSplit(images[held_out], labels[held_out])
    # The last images move into the places of the held-out ones: what is left is one mapped block.
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


def _task_image(path: Path, max_pixels: int) -> str:
    try:
        with open_image(path, max_pixels) as image:
            is_light = path.stat().st_size <= TASK_IMAGE_MAX_BYTES
            is_small = max(image.size) <= TASK_IMAGE_MAX_PX
            if is_light and is_small and image.format in ("JPEG", "PNG"):
                return _data_uri(Image.MIME[image.format], path.read_bytes())
            times = max(image.size) / TASK_IMAGE_MAX_PX
            rgb = read_rgb(image, (times, times))
    except (ImageError, OSError) as error:
        raise PoolError(f"cannot read the image {str(path)!r} ({error}): put it back") from error
    rgb.thumbnail((TASK_IMAGE_MAX_PX, TASK_IMAGE_MAX_PX))
    jpeg = io.BytesIO()
    rgb.save(jpeg, "JPEG", quality=90)
    return _data_uri("image/jpeg", jpeg.getvalue())


def _png(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return _data_uri("image/png", content.getvalue())


def _data_uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
