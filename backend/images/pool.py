"""Open the pool: the images that may be queried, and two held-out splits."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.base.arrays import Images, RowView
from backend.base.errors import ImageError, PoolError
from backend.base.labeling import TaskImage
from backend.base.progress import Progress
from backend.base.project_settings import MAX_IMAGE_PIXELS, ValidatedBy
from backend.images.data_sets import cache_data_set
from backend.images.data_uri import data_uri
from backend.images.framing import SMALL_PX, View, choose_image_size
from backend.images.image_side import measure_side
from backend.images.index import Index, Merged
from backend.images.index_file import find_indexed_source, update_index
from backend.images.labeled import LabeledFolder
from backend.images.pool_cache import read_cache
from backend.images.source_images import SourceImages, source_folder
from backend.images.sources import Source
from backend.images.splits import NO_IMAGES, LabeledSplit, Split, draw_validation
from backend.images.task_image import png_image, task_image
from backend.images.validation_sample import KNOWN, Validation, draw_sample

log = logging.getLogger(__name__)

THUMBNAIL_MAX_PX = 64


def quiet(*_: object) -> None:
    """Report no progress."""


@dataclass(frozen=True, eq=False, repr=False)
class Pool:
    """All images that may be queried, without their labels (see true_labels)."""

    name: str  # "cifar10", "digits" or the name of the source
    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    images: Images  # rows match image_ids
    # If annotators label the sample, `validation` is empty until the loop adds their labels.
    validation: LabeledSplit
    test: LabeledSplit
    may_flip: bool  # whether a mirrored image keeps its class
    notice: str  # a warning to show to users, or ""
    folder: Path  # the cache folder
    image_size: int  # the side of the squares that the next version will see
    source: SourceImages | None = None  # None for cifar10 and digits, which have no image files
    sample: Split = NO_IMAGES  # validation images that only annotators label, in labeling order
    validated_by: ValidatedBy = "known"  # whose labels say how good a version is

    @cached_property
    def retired_ids(self) -> tuple[str, ...]:
        """Return labeled images that the source has lost. They are trained on, not queried."""
        return self.source.retired_ids if self.source else ()

    @cached_property
    def known_ids(self) -> tuple[str, ...]:
        """Return all images that a model can be trained on: image_ids, then retired_ids."""
        return self.image_ids + self.retired_ids

    @cached_property
    def queryable_ids(self) -> frozenset[str]:
        """Return all images that annotators can be asked to label, including the sample."""
        return frozenset((*self.image_ids, *self.sample.image_ids)) - self.removed_ids

    @property
    def removed_ids(self) -> frozenset[str]:
        """Return the images that the source has lost, whether they are labeled or not."""
        return self.source.removed_ids if self.source else frozenset()

    @property
    def n_waiting(self) -> int:
        """Return the number of images still to decode, excluding currently unreadable images."""
        return self.source.n_waiting if self.source else 0

    @property
    def fault(self) -> str:
        """Return the reason why none of the waiting images could be read, or ""."""
        return self.source.fault if self.source else ""

    def canonical(self, image_id: str) -> str:
        """Return the id of the image that counts: this image, or another with the same content."""
        index = self.source.index if self.source else None
        if index is None or image_id in self._rows:
            return image_id
        try:
            return index.canonical(image_id)
        except PoolError:  # a task that a person created
            return image_id

    def is_in_sample(self, image_id: str) -> bool:
        """Return whether only annotators label an image, or the image that it copies.

        Images in the sample are included even if they are not decoded or the source has lost them.
        """
        if self.source is None:
            return image_id in self._sample_ids
        try:
            return self.source.is_in_sample(image_id)
        except PoolError:  # a task that a person created
            return False

    def positions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of these images in known_ids. Raises PoolError for an unknown id."""
        try:
            return np.array([self._rows[i] for i in image_ids], dtype=np.int64)
        except KeyError as error:
            raise PoolError(f"the pool {self.name} contains no image {error}") from None

    def images_of(
        self, image_ids: Sequence[str], view: View | None = None, progress: Progress = quiet
    ) -> Images:
        """Return images in one split as a version with this view sees them.

        The default view is the next version's. Raises PoolError for an unknown id, or if an image
        cannot be read.
        """
        if self.source is not None:
            return self.source.images_of(image_ids, view or View(self.image_size), progress)
        for split in (self.sample, self.validation, self.test):
            if image_ids and image_ids[0] in split.image_ids:
                row_of = {image_id: row for row, image_id in enumerate(split.image_ids)}
                return RowView(split.images, np.array([row_of[i] for i in image_ids]))
        return RowView(self.images, self.positions(image_ids))

    def keep_labeled(self, image_ids: Sequence[str]) -> None:
        """Keep the pixels of labeled images permanently, unless the pool can never lose images."""
        if self.source is not None:
            self.source.keep_labeled(image_ids)

    @cached_property
    def has_large_images(self) -> bool:
        """Return whether any side of the images is longer than SMALL_PX."""
        side = self.source.measure_side() if self.source else max(self.images.shape[1:3])
        return (side or self.image_size) > SMALL_PX

    def task_image(self, image_id: str, max_side_px: int) -> TaskImage:
        """Return a task's image, made from the original file if there is one, or from the array."""
        if self.source is None:
            return png_image(self._picture(image_id))
        try:
            return task_image(self.source.read(image_id), max_side_px, self.source.max_pixels)
        except (ImageError, OSError) as error:
            raise PoolError(
                f"cannot read image {image_id} in {self.name} ({error}): restore it"
            ) from error

    def thumbnail(self, image_id: str) -> str:
        """Return a small picture of what the model sees, as a data: URI."""
        picture = self._picture(image_id)
        picture.thumbnail((THUMBNAIL_MAX_PX, THUMBNAIL_MAX_PX))
        return data_uri(png_image(picture))

    def _picture(self, image_id: str) -> Image.Image:
        return Image.fromarray(self.images_of([image_id])[:][0])

    @cached_property
    def _sample_ids(self) -> frozenset[str]:
        return frozenset(self.sample.image_ids)

    @property
    def n_held_out(self) -> int:
        """Return how many images are held out for validation, whether they are decoded or not."""
        if self.source is not None:
            return self.source.n_held_out
        return len(self.sample.image_ids) or len(self.validation.image_ids)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.known_ids)}


def open_pool(
    name: str,
    data_dir: Path,
    *,
    seed: int,
    validation: Validation = KNOWN,
    index: Path | None = None,
    source: Source | None = None,
    classes: Sequence[str] = (),
    image_size: int | Literal["auto"] = "auto",
    image_hosts: Sequence[str] = (),
    rescan: bool = True,
    budget_s: float = math.inf,
    needed: Collection[str] = (),
    needs_held_out: bool = False,
    max_pixels: int = MAX_IMAGE_PIXELS,
    progress: Progress = quiet,
) -> Pool:
    """Open `name` (auto, cifar10, digits, or what find_source accepts), or `source` if given.

    `index` is the project's index file; labeled images are kept beside it, unless `source` is
    given. Without `index`, the index is stored in data_dir and no labeled images are kept. Once an
    index exists, it determines the validation images, regardless of `validation`. `classes`
    contains the class names if they are known. With `rescan`, or if no index exists yet, the source
    is listed. Then images are decoded for about `budget_s` seconds. Images in `needed` are always
    decoded; with `needs_held_out`, so are the validation and test images. Images of more than
    `max_pixels` pixels are left out. If the source is unavailable, the decoded images can still be
    used. Raises PoolError.
    """
    try:
        if source is None and (found := cache_data_set(name, data_dir, progress)):
            return _read_arrays(*found, seed, image_size, validation)
        keeps_labeled = index is not None and source is None
        source = source or find_indexed_source(name, image_hosts, index)
        suffix = "" if validation == KNOWN else f"-people-{validation.n_labels}"
        path = index or source_folder(data_dir, source.name) / f"index-{seed}{suffix}.parquet"
        if rescan or (listed := Index.read(path)) is None:
            listed = update_index(source, path, data_dir, seed, progress, validation).index
        if image_size == "auto":
            image_size = choose_image_size(measure_side(source, listed, max_pixels))
        labeled = LabeledFolder(path.parent / "labeled", max_pixels) if keeps_labeled else None
        images = SourceImages(source, listed, path, data_dir, image_size, max_pixels, labeled)
        images = images.decode(progress, budget_s, needed, needs_held_out=needs_held_out)
        return _read_source(images, classes)
    except OSError as error:
        raise PoolError(
            f"POOL={name}: {error}; check that DATA_DIR={data_dir} is writable and has space left"
        ) from error


def rescan(
    pool: Pool,
    seed: int,
    *,
    must_list: bool,
    budget_s: float,
    needed: Collection[str] = (),
    progress: Progress = quiet,
) -> tuple[Pool, Merged | None]:
    """Decode waiting images for about `budget_s` seconds; with `must_list`, list the source first.

    Returns the updated pool, and the changes that the listing made. Raises PoolError if the source
    is unavailable; in that case, nothing is changed.
    """
    images, merged = pool.source, None
    if images is None:  # CIFAR-10 and the digits never change
        return pool, None
    if must_list:
        images, merged = images.list_again(seed, progress)
    return _read_source(images.decode(progress, budget_s, needed), pool.classes), merged


def hold_out_sample(pool: Pool, seed: int, n_labels: int, exempt: Collection[str]) -> Pool:
    """Hold out a validation sample in a pool that has none, leaving out images in `exempt`."""
    if pool.source is None:
        return pool
    return _read_source(pool.source.draw_sample(seed, n_labels, exempt), pool.classes)


def _read_arrays(
    name: str,
    cache: Path,
    notice: str,
    seed: int,
    image_size: int | Literal["auto"],
    validation: Validation,
) -> Pool:
    """Read a cache of arrays. Raises PoolError if the cache is damaged."""
    cached = read_cache(cache)
    is_by_people = validation.by == "people"
    if is_by_people:
        sample = draw_sample(cached.image_ids, seed, validation.n_labels)
        row_of = {image_id: row for row, image_id in enumerate(cached.image_ids)}
        drawn = sample.choose(cached.image_ids) if sample else []
        held_out = np.array([row_of[image_id] for image_id in drawn], dtype=np.int64)
    else:
        held_out = draw_validation(cached.image_ids, cached.labels, seed)
    asked = np.setdiff1d(np.arange(len(cached.labels)), held_out)
    split = Split(
        tuple(cached.image_ids[row] for row in held_out), RowView(cached.images, held_out)
    )
    known = LabeledSplit(split.image_ids, split.images, cached.labels[held_out])
    test_ids = tuple(f"test-{row:05d}" for row in range(len(cached.test_labels)))
    side = cached.images.shape[1]
    return Pool(
        name=name,
        classes=cached.classes,
        image_ids=tuple(cached.image_ids[row] for row in asked),
        images=RowView(cached.images, asked),
        validation=split.select({}) if is_by_people else known,
        test=LabeledSplit(test_ids, cached.test, cached.test_labels),
        may_flip=cached.may_flip,
        notice=notice,
        folder=cache,
        image_size=choose_image_size(side) if image_size == "auto" else image_size,
        sample=split if is_by_people else NO_IMAGES,
        validated_by=validation.by,
    )


def _read_source(images: SourceImages, classes: Sequence[str]) -> Pool:
    """Make a pool from a source. Raises PoolError if there are fewer than two classes."""
    index = images.index
    classes = tuple(classes or index.classes)
    name = images.source.name
    if len(classes) < 2:
        known = f"only {classes[0]!r} is known" if classes else "none are known"
        raise PoolError(
            f"POOL={name}: give two or more classes with CLASSES=cat,dog (your own names), or sort "
            f"labeled images into folders train/<class>/; {known}"
        )
    image_ids = tuple(map(str, index.image_ids[images.find("pool")]))
    if not image_ids:
        raise PoolError(f"POOL={name}: none of its {len(index):,} images can be read")
    sample = Split(images.sample_ids, images.store.images(images.sample_ids))
    return Pool(
        name=name,
        classes=classes,
        image_ids=image_ids,
        images=images.store.images(image_ids),
        validation=sample.select({}) if index.sample else _labeled(images, "validation", classes),
        test=_labeled(images, "test", classes),
        may_flip=True,
        notice="",
        folder=images.folder,
        image_size=images.image_size,
        source=images,
        sample=sample,
        validated_by="people" if index.sample else "known",
    )


def _labeled(
    images: SourceImages, split: Literal["validation", "test"], classes: Sequence[str]
) -> LabeledSplit:
    """Return the decoded images in a split that have a known label."""
    index, rows = images.index, images.find(split)
    rows = rows[np.isin(index.labels[rows].astype(str), classes)]
    image_ids = tuple(map(str, index.image_ids[rows]))
    labels = np.array([classes.index(label) for label in index.labels[rows]], dtype=np.int64)
    return LabeledSplit(image_ids, images.store.images(image_ids), labels)
