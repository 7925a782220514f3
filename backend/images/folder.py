"""List the images in a folder: unlabeled at any depth, or labeled by train/<class>/."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Container, Sequence
from pathlib import Path
from typing import BinaryIO

from backend.base.errors import ImageError, PoolError
from backend.base.progress import Progress
from backend.images.digest import digest
from backend.images.listing import (
    IMAGE_SUFFIXES,
    NOT_SUPPORTED,
    Listed,
    ListedSplit,
    Listing,
    make_listing,
    name_fault,
    summarize,
)

REPORT_EVERY = 1000


class Folder:
    """A folder of image files. Hidden files and folders are ignored.

    With images in two or more folders train/<class>/, these classes are the labels, and test/ may
    hold test images in the same way. Images elsewhere are unlabeled. Any other folder holds
    unlabeled images only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Return the absolute path."""
        return str(self.path)

    def list(self, progress: Progress) -> Listing:
        """List all images; see `Source.list`."""
        scan = _Scan(self.path, progress)
        left_out = scan.left_out
        in_train = {
            parts[1] for parts in map(_split_path, scan.files) if _has_class(parts, "train")
        }
        usable = {name for name in in_train if not name_fault(name)}
        classes = usable if len(usable) > 1 else set()
        images = []
        for path, (size, mtime_ns) in scan.files.items():
            try:
                split, label = _place(path, classes)
            except ImageError as fault:
                left_out[path] = str(fault)
            else:
                images.append(Listed(digest(path), path, size, str(mtime_ns), split, label))
        if not images:
            why = summarize(left_out, len(left_out)) or "it is empty"
            raise PoolError(f"POOL={self.path}: the folder holds no images ({why})")
        return make_listing(images, left_out, classes)

    def open(self, location: str) -> BinaryIO:
        """Open an image; see `Source.open`."""
        return (self.path / location).open("rb")

    def url(self, location: str) -> str | None:  # noqa: ARG002
        """Return None: browsers cannot open files of this machine."""
        return None


def _split_path(path: str) -> list[str]:
    return path.split("/", 2)


def _has_class(parts: Sequence[str], split: str) -> bool:
    return len(parts) == 3 and parts[0] == split


def _place(path: str, classes: Container[str]) -> tuple[ListedSplit, str]:
    """Return the split and the label of an image.

    Without `classes`, all images are unlabeled. Raises ImageError if the image must be left out.
    """
    parts = _split_path(path)
    if not classes or parts[0] not in ("train", "test"):
        return "", ""
    if len(parts) < 3:
        if parts[0] == "test":
            raise ImageError("a test image without a class: move it to test/<class>/")
        return "", ""
    if fault := name_fault(parts[1]):
        raise ImageError(f"the name of its class folder {fault}: rename the folder")
    if parts[1] not in classes:
        raise ImageError("train/ holds no images of its class")
    return ("train" if parts[0] == "train" else "test"), parts[1]


class _Scan:
    """The files below a folder that are images by their suffix, and why others are left out."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.files: dict[str, tuple[int, int]] = {}  # path -> size, and mtime in ns
        self.left_out: dict[str, str] = {}  # path -> reason
        self._root = root
        self._progress = progress
        self._seen: set[tuple[int, int]] = set()  # device and inode of every folder
        self._links: deque[str] = deque()
        folders = deque([""])
        # Links come last: a folder keeps its own path, and a link to a folder above ends there.
        while folders or self._links:
            folders.extend(self._scan(folders.popleft() if folders else self._links.popleft()))

    def _scan(self, folder: str) -> list[str]:
        """List the files of a folder, and return its sub-folders."""
        entries: list[os.DirEntry[str]] = []
        try:
            self._enter(folder)
            entries = _entries(self._root / folder)
        except (ImageError, OSError) as error:
            if folder in ("", "train", "test"):  # do not mistake labeled images for unlabeled ones
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
        """Raise ImageError if the folder was listed under another path."""
        found = (self._root / folder).stat()
        key = found.st_dev, found.st_ino
        if key in self._seen and found.st_ino:  # some network drives number no files
            raise ImageError("a link to a folder that is listed already")
        self._seen.add(key)

    def _add(self, path: str, found: os.stat_result) -> None:
        if not path.lower().endswith(IMAGE_SUFFIXES):
            raise ImageError(NOT_SUPPORTED)
        if not stat.S_ISREG(found.st_mode):
            raise ImageError("not a file")
        self.files[path] = found.st_size, found.st_mtime_ns
        if len(self.files) % REPORT_EVERY == 0:
            self._progress("listing images", len(self.files), 0)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List the entries of a folder, except hidden ones."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
