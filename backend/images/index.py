"""Keep the index of a project's pool: which images there are, where they lie, and their splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from backend.images.listing import Listing

Split = Literal["pool", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the pool."""

    image_id: str
    location: str  # for Source.open
    size: int  # bytes, -1 if unknown
    modified: str  # the mtime in ns or an ETag, "" if unknown
    content: str  # a hash of the file's content, "" until it is decoded
    split: Split
    label: str  # the known class, "" if unknown or if copies contradict each other
    left_out: str  # why the file cannot be used, "" if it can
    copy_of: str  # the image with the same content that counts, "" if this one counts
    is_changed: bool  # the file changed after it was decoded: its old pixels count until then
    is_removed: bool  # the source lists it no more


@dataclass(frozen=True)
class Merged:
    """What a listing changes in an index."""

    index: Index
    added: tuple[str, ...]  # ids of new images, and of those that are back
    changed: tuple[str, ...]  # ids of images to decode again
    removed: tuple[str, ...]  # ids of images that the source lists no more


@dataclass(frozen=True, eq=False, repr=False)
class Index:
    """All images that a source has ever listed, sorted by id. An index never changes.

    Arrays have one item per image, in the same order ("rows").
    """

    source: str  # Source.name
    classes: tuple[str, ...]  # as the latest listing names them, sorted; () if none is known
    table: pa.Table  # a column for each field of Entry, with the label as the source knows it

    @classmethod
    def empty(cls, source: str) -> Self:
        """Return an index without images, for a source that was never listed."""
        raise NotImplementedError

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read an index, or return None if there is none. Raises PoolError if it is damaged."""
        raise NotImplementedError

    def write(self, path: Path) -> None:
        """Replace the file: readers see the old index or the new one. Raises PoolError."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def image_ids(self) -> NDArray[Any]:
        """Return all ids, sorted."""
        raise NotImplementedError

    @property
    def splits(self) -> NDArray[Any]:
        """Return the split of every image."""
        raise NotImplementedError

    @property
    def labels(self) -> NDArray[Any]:
        """Return every image's known label, shared by all its copies.

        The label is "" if none is known, or if labels of copies contradict each other.
        """
        raise NotImplementedError

    @property
    def is_waiting(self) -> NDArray[np.bool_]:
        """Return which images to decode: new ones and changed ones, unless removed or left out."""
        raise NotImplementedError

    @property
    def is_usable(self) -> NDArray[np.bool_]:
        """Return which images count: decoded, not left out, not removed, no copies of others."""
        raise NotImplementedError

    def rows(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of these images. Raises PoolError for an unknown id."""
        raise NotImplementedError

    def entries(self, rows: NDArray[np.int64]) -> Iterator[Entry]:
        """Yield these images one by one."""
        raise NotImplementedError

    def canonical(self, image_id: str) -> str:
        """Return the image that counts for this one: itself, or the one with the same content.

        If all copies but one are removed, that one counts, so a file may be renamed.
        """
        raise NotImplementedError

    def merge(self, listing: Listing) -> Merged:
        """Bring the index up to date with what the source lists now.

        Known images keep their split. New ones join the pool, or the test split if they are listed
        so; "validation" counts only in the first listing. Images that are missing are marked as
        removed, until they are back. Raises PoolError if all are missing.
        """
        raise NotImplementedError

    def hold_out(self, image_ids: Sequence[str]) -> Index:
        """Move images from the pool to the validation split, once, after the first merge."""
        raise NotImplementedError

    def record(self, contents: Mapping[str, str], left_out: Mapping[str, str]) -> Index:
        """Record content hashes of decoded images and why others cannot be used, by id.

        Copies are found here: of images with the same content, the first path counts, unless a
        later one counted before. If one copy is held out, all are. Do not record an image whose
        source fails for a while (a network error): it goes on waiting.
        """
        raise NotImplementedError
