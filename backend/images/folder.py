"""List the images in a folder and all its subfolders."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from backend.base.errors import ImageError, PoolError
from backend.base.progress import Progress
from backend.images.layout import list_by_path
from backend.images.listing import IMAGE_SUFFIXES, NOT_SUPPORTED, Listing, summarize

REPORT_EVERY = 1000


class Folder:
    """A folder of image files, labeled or not (see layout.py). Hidden files are ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Return the absolute path."""
        return str(self.path)

    def list(self, progress: Progress) -> Listing:
        """List all images; see `Source.list`."""
        scan = _Scan(self.path, progress)
        listing = list_by_path(scan.files, scan.left_out)
        if not listing.images:
            raise PoolError(
                f"POOL={self.path}: the folder contains no images"
                + (f" ({summarize(listing.left_out, 0)})" if listing.left_out else "")
            )
        return listing

    def open(self, location: str) -> BinaryIO:
        """Open an image; see `Source.open`."""
        return (self.path / location).open("rb")

    def prefetch(self, locations: Sequence[str]) -> None:
        """Do nothing, because images are read one at a time."""

    def url(self, location: str) -> str | None:  # noqa: ARG002
        """Return None: browsers cannot open files on this machine."""
        return None


class _Scan:
    """Finds the files with an image suffix below a folder; records why other files are left out."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.files: dict[str, tuple[int, str]] = {}  # path -> size, and mtime in ns
        self.left_out: dict[str, str] = {}  # path -> reason
        self._root = root
        self._progress = progress
        self._seen: set[tuple[int, int]] = set()  # device and inode of every folder
        self._links: deque[str] = deque()
        folders = deque([""])
        # Follow links last, so that folders keep their own paths and links to parents are left out.
        while folders or self._links:
            folders.extend(self._scan(folders.popleft() if folders else self._links.popleft()))

    def _scan(self, folder: str) -> list[str]:
        """List the files in a folder, and return its subfolders."""
        entries: list[os.DirEntry[str]] = []
        try:
            self._enter(folder)
            entries = _entries(self._root / folder)
        except (ImageError, OSError) as error:
            if folder in ("", "train", "test"):  # otherwise, labeled images could look unlabeled
                place = f"its folder {folder}" if folder else "the folder"
                raise PoolError(
                    f"POOL={self._root}: {place} cannot be read ({_reason(error)})"
                ) from None
            self.left_out[folder] = _reason(error)
        folders: list[str] = []
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                found = entry.stat()
                if stat.S_ISDIR(found.st_mode):
                    (self._links if entry.is_symlink() else folders).append(path)
                else:
                    self._add(path, found)
            except (ImageError, OSError) as error:
                self.left_out[path] = _reason(error)
        return folders

    def _enter(self, folder: str) -> None:
        """Raise ImageError if the folder was already listed under another path."""
        found = (self._root / folder).stat()
        key = found.st_dev, found.st_ino
        if key in self._seen and found.st_ino:  # some network drives assign no inode numbers
            raise ImageError("a link to a folder that is already listed")
        self._seen.add(key)

    def _add(self, path: str, found: os.stat_result) -> None:
        if not path.lower().endswith(IMAGE_SUFFIXES):
            raise ImageError(NOT_SUPPORTED)
        if not stat.S_ISREG(found.st_mode):
            raise ImageError("not a file")
        self.files[path] = found.st_size, str(found.st_mtime_ns)
        if len(self.files) % REPORT_EVERY == 0:
            self._progress("listing images", len(self.files), 0)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List the entries of a folder, except hidden ones."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
