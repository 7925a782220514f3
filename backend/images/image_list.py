"""List the images whose paths or URLs are in a CSV, JSON Lines or Parquet file."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.images.bucket import PACKAGES, BucketFiles
from backend.images.digest import digest
from backend.images.image_hosts import ImageHosts
from backend.images.list_file import ListRow, read_list
from backend.images.listing import (
    Listed,
    Listing,
    make_listing,
    name_fault,
    name_some,
    shown,
    summarize,
)

log = logging.getLogger(__name__)

REPORT_EVERY = 1000


class ImageList:
    """A list of images, with their labels and splits if known.

    Paths refer to files below the list's folder. URLs refer to images in buckets or on hosts in
    IMAGE_HOSTS.
    """

    def __init__(self, path: Path, hosts: ImageHosts) -> None:
        self.name = str(path)
        self._path = path
        self._hosts = hosts
        self._buckets: dict[str, BucketFiles] = {}

    def list(self, progress: Progress) -> Listing:
        """List all images; see `Source.list`. Unreadable images are left out."""
        resolve = cache(_resolve)  # many images are in the same folder
        rows: dict[str, ListRow] = {}
        stamps: dict[str, tuple[int, str]] = {}
        left_out: dict[str, str] = {}
        contradictory: set[str] = set()
        for number, row in enumerate(read_list(self._path), 1):
            if number % REPORT_EVERY == 0:
                progress("listing images", number, 0)
            try:
                location, size, modified = self._find(row, resolve)
            except OSError as error:
                left_out[row.image] = error.strerror or str(error)
                continue
            stamps[location] = size, modified
            first = rows.setdefault(location, row)
            if not first.label:
                rows[location] = row
            elif row.label and (first.label, first.split) != (row.label, row.split):
                contradictory.add(location)
        self._name_contradictory(sorted(contradictory))
        self._check_buckets(rows)
        images = [
            Listed(digest(location), location, *stamps[location])
            if location in contradictory
            else Listed(digest(location), location, *stamps[location], row.split, row.label)
            for location, row in rows.items()
        ]
        if not images:
            raise PoolError(f"POOL={self.name}: no image can be used: {summarize(left_out, 0)}")
        return make_listing(images, left_out, {image.label for image in images} - {""})

    def open(self, location: str) -> BinaryIO:
        """Read an image; see `Source.open`."""
        scheme = _scheme(location)
        if scheme in PACKAGES:
            return self._bucket(location).open(location)
        if scheme:
            return self._hosts.open(location)
        # Check again: a link may have replaced the file.
        return _below(self._path.parent, location).open("rb")

    def prefetch(self, locations: Sequence[str]) -> None:
        """Do nothing, because images are read one at a time."""

    def url(self, location: str) -> str | None:
        """Return the URL of an image on a web server."""
        return location if _scheme(location) in ("http", "https") else None

    def _find(self, row: ListRow, resolve: Callable[[Path], Path]) -> tuple[str, int, str]:
        """Return an image's location, size and modification time.

        Raises OSError if the image cannot be used.
        """
        for what, text in (("label", row.label), ("address", row.image)):
            if fault := name_fault(text):
                raise OSError(f"the {what} {fault}")
        scheme = _scheme(row.image)
        if not scheme:
            path = _below(self._path.parent, row.image, resolve)
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise OSError("not a file")
            location = str(path.relative_to(self._path.parent))
            return location, found.st_size, str(found.st_mtime_ns)
        if scheme not in PACKAGES and (fault := self._hosts.fault(row.image)):
            raise OSError(fault)
        return row.image, -1, ""

    def _bucket(self, location: str) -> BucketFiles:
        url = _bucket_url(location)
        if url not in self._buckets:
            self._buckets[url] = BucketFiles(url)
        return self._buckets[url]

    def _check_buckets(self, locations: Iterable[str]) -> None:
        """Raise PoolError if a bucket refuses access to one of its images.

        Otherwise, all images in the bucket would be left out and thus removed from the pool.
        """
        some = {_bucket_url(loc): loc for loc in locations if _scheme(loc) in PACKAGES}
        for location in some.values():
            try:
                self._bucket(location).check(location)
            except OSError as error:
                raise PoolError(f"POOL={self.name}: {shown(location)}: {error}") from None

    def _name_contradictory(self, locations: Sequence[str]) -> None:
        if locations:
            log.warning(
                "pool %s: %d images are listed with different labels or splits, so they count as "
                "unlabeled: %s",
                self.name,
                len(locations),
                name_some(locations),
            )


def _scheme(location: str) -> str:
    scheme, separator, _ = location.partition("://")
    return scheme.lower() if separator else ""


def _bucket_url(location: str) -> str:
    return "/".join(location.split("/", 3)[:3])


def _resolve(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a link loop


def _below(folder: Path, path: str, resolve: Callable[[Path], Path] = _resolve) -> Path:
    """Return the path of a file below `folder`, without unnecessary parts.

    Raises OSError if the path leads out of the folder, even through a link.
    """
    asked = folder / path
    file = resolve(asked.parent) / asked.name
    target = _resolve(file) if file.is_symlink() else file
    is_below = file.is_relative_to(folder) and target.is_relative_to(folder)
    if asked.name in ("", "..") or not is_below:
        raise OSError("not a file below the list's folder")
    return file
