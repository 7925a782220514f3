"""Read a pool's images in a process that has not opened the pool, for example on another machine.

The pixels are the same as those that the pool itself decodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from backend.base.errors import ImageError, PoolError
from backend.images.bucket import Bucket
from backend.images.entry import unquoted
from backend.images.folder import Folder
from backend.images.framing import FramingName, View
from backend.images.image_list import ImageList
from backend.images.pixels import decode_original
from backend.images.pool import Pool
from backend.images.pool_cache import CachedImages, read_cache
from backend.images.sources import Source, find_source


class ImageReader(Protocol):
    """Reads single images. It can be pickled, so that other processes can use it."""

    def check(self) -> None:
        """Raise PoolError if the images are not there, for example because a disk is missing."""

    def read(self, location: str) -> NDArray[np.uint8]:
        """Return an image, (height, width, 3). Raises ImageError, OSError or KeyError."""


@dataclass(frozen=True)
class ArrayReader:
    """Reads CIFAR-10 or the digits from the arrays in their cache folder; locations are ids."""

    folder: Path

    def check(self) -> None:
        """Raise PoolError if the cache folder is not there."""
        if not self.folder.is_dir():
            raise PoolError(f"{self.folder} does not exist: share DATA_DIR at the same path")

    def read(self, location: str) -> NDArray[np.uint8]:
        """Return an image; see `ImageReader.read`."""
        if location.startswith("test-"):
            return self._cached.test[int(location.removeprefix("test-"))]
        return self._cached.images[self._row_of[location]]

    @cached_property
    def _cached(self) -> CachedImages:
        return read_cache(self.folder)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self._cached.image_ids)}


@dataclass(frozen=True)
class SourceReader:
    """Reads the images of a folder, a list or a bucket; locations are the source's own."""

    source_name: str
    image_hosts: tuple[str, ...]
    framing: FramingName
    size: tuple[int, int]  # width and height
    max_pixels: int

    def check(self) -> None:
        """Raise PoolError if the source is not there."""
        self._source  # noqa: B018  # finds it

    def read(self, location: str) -> NDArray[np.uint8]:
        """Return an image; see `ImageReader.read`."""
        return decode_original(
            self._source.open, location, self.framing, self.size, self.max_pixels
        )[0]

    @cached_property
    def _source(self) -> Source:
        return find_source(self.source_name, image_hosts=self.image_hosts)


class ReaderImages:
    """Images as a reader finds them, in threads; see `backend.base.arrays.Rows`.

    If an image cannot be read, another one takes its place, so that one lost file does not end a
    long training. Raises PoolError if none of the wanted images can be read.
    """

    def __init__(self, reader: ImageReader, locations: pa.ChunkedArray) -> None:
        self._reader, self._locations = reader, locations
        self._threads = ThreadPoolExecutor()
        self._shape = self[np.zeros(1, np.int64)].shape[1:]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape (images, height, width, 3)."""
        return len(self), *self._shape

    def __len__(self) -> int:
        return len(self._locations)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[np.array([row])][0] for row in range(len(self)))

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        found = list(self._threads.map(self._read, self._locations.take(rows).to_pylist()))
        readable = [pixels for pixels in found if not isinstance(pixels, str)]
        if not readable:
            raise PoolError(f"none of {len(found)} images can be read: {found[0]}")
        return np.stack([readable[0] if isinstance(one, str) else one for one in found])

    def _read(self, location: str) -> NDArray[np.uint8] | str:
        return read_or_reason(self._reader, location)


def read_or_reason(reader: ImageReader, location: str) -> NDArray[np.uint8] | str:
    """Return an image, or why it cannot be read."""
    try:
        return reader.read(location)
    except (ImageError, OSError, KeyError) as error:
        return str(error)


def find_reader(pool: Pool, view: View, image_hosts: Sequence[str]) -> ImageReader | None:
    """Return a reader of a pool's images as a model with this view sees them.

    Returns None if only the pool itself can read them: Label Studio's tasks need its token.
    """
    images = pool.source
    if images is None:
        return ArrayReader(pool.folder.absolute())
    if not isinstance(images.source, Folder | ImageList | Bucket):
        return None
    size = images.stored_size(view)
    hosts = tuple(image_hosts)
    return SourceReader(images.source.name, hosts, view.framing, size, images.max_pixels)


def find_locations(pool: Pool, image_ids: Sequence[str]) -> list[str | None]:
    """Return where a reader finds each image, or None if it has been removed from the source."""
    if pool.source is None:
        return list(image_ids)
    index = pool.source.index
    rows = index.rows(image_ids)
    stored = index.table["location"].take(rows).to_pylist()
    is_removed = index.table["is_removed"].take(rows).to_pylist()
    return [None if gone else unquoted(at) for at, gone in zip(stored, is_removed, strict=True)]
