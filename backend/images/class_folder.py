"""Provide a folder with one subfolder per class as the pool, and cache its usable images.

Files and folders that are left out are logged with the reason and listed in the cache's meta.json.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps

from backend.base.errors import ImageError, PoolError
from backend.base.progress import Progress
from backend.images.decode import open_image, read_rgb
from backend.images.digest import digest
from backend.images.pool_cache import find_cache, open_cache, write_images, write_labels, write_meta

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Images that all have the same size, up to this one, are cached at that size.
NATIVE_MAX_PX = 256
# All others get this size: 1.5 times an IMAGE_SIZE of 64 leaves room for crops, and 50,000 images
# take 1.4 GB of disk.
CACHE_SIZE_PX = 96
NAMED_MAX = 20
# Class names go into JSON and XML. Python reads bytes that are not UTF-8 as lone surrogates.
UNUSABLE_NAMES = {
    "is not UTF-8": re.compile(r"[\ud800-\udfff]"),
    "contains a control character": re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]"),
}
LAYOUT = (
    "a pool folder must contain train/<class>/*.jpg (or .jpeg, .png) for two or more classes, "
    "and may contain test/<class>/*"
)


def cache_folder(
    folder: Path, data_dir: Path, progress: Progress, *, max_pixels: int, rescan: bool = True
) -> Path:
    """Cache a folder of train/<class>/* and test/<class>/*.

    Without `rescan`, an existing cache is used without a check: checking 60,000 files for changes
    takes seconds.
    """
    source = f"folder-{digest(str(folder))}"
    if not rescan and (kept := find_cache(data_dir, source)):
        return kept
    found = _ClassFolder(folder, max_pixels, progress)
    return open_cache(data_dir, source, found.fingerprint, found.write)


class _ClassFolder:
    """The image files of a folder, and the reasons for leaving some out."""

    def __init__(self, folder: Path, max_pixels: int, progress: Progress) -> None:
        self.folder, self.max_pixels, self.progress = folder, max_pixels, progress
        self.left_out: dict[str, str] = {}  # path -> reason
        files = sorted(file for split in ("train", "test") for file in self._scan(split))
        # Sorted by hash, so the pool reveals neither the file system's order nor the classes.
        self.paths = sorted((path for path, _, _ in files), key=digest)
        self.fingerprint = digest(
            json.dumps([NATIVE_MAX_PX, CACHE_SIZE_PX, max_pixels, files, sorted(self.left_out)])
        )

    def write(self, draft: Path) -> None:
        """Fill a cache folder. Raises PoolError if there are fewer than two classes."""
        size = self._common_size()
        train = self._write_images(draft, "train", self.paths, size)
        classes = sorted({_class_of(path) for path in train})
        if len(classes) < 2:
            raise PoolError(
                f"POOL={self.folder}: {LAYOUT}; classes with readable images: {classes or 'none'}"
                + (f"; left out: {self._name_left_out()}" if self.left_out else "")
            )
        known = [path for path in self.paths if _class_of(path) in classes]
        if unknown := {_class_of(path) for path in self.paths} - {*classes}:
            log.warning("pool: left out classes without train images: %s", sorted(unknown))
        test = self._write_images(draft, "test", known, size)
        if self.left_out:
            n_left_out = len(self.left_out)
            log.warning("pool %s: %d left out: %s", self.folder, n_left_out, self._name_left_out())
        for split, paths in (("train", train), ("test", test)):
            write_labels(draft, split, [classes.index(_class_of(path)) for path in paths])
        skipped = sorted(self.left_out)
        image_ids = [digest(path) for path in train]
        write_meta(draft, image_ids, classes, may_flip=True, paths=train, skipped=skipped)

    @contextmanager
    def _leave_out_on_error(self, path: str) -> Iterator[None]:
        """If the block fails, leave the file or folder out and record the reason."""
        try:
            yield
        except (ImageError, OSError) as error:
            self.left_out[path] = getattr(error, "strerror", None) or str(error)

    def _name_left_out(self) -> str:
        named = [f"{path!r} ({reason})" for path, reason in sorted(self.left_out.items())]
        return "; ".join([*named[:NAMED_MAX], *(["…"] if len(named) > NAMED_MAX else [])])

    def _scan(self, split: str) -> list[tuple[str, int, int]]:
        """List every image file of a split: path relative to the folder, size, and mtime in ns."""
        try:
            class_dirs = _entries(self.folder / split)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise PoolError(
                f"POOL={self.folder}: its folder {split} cannot be read ({error.strerror})"
            ) from None
        files = []
        for class_dir in class_dirs:
            below = f"{split}/{class_dir.name}"
            entries: list[os.DirEntry[str]] = []
            with self._leave_out_on_error(below):
                if stat.S_ISDIR(class_dir.stat().st_mode):
                    entries = _entries(class_dir)
                    for fault, pattern in UNUSABLE_NAMES.items():
                        if pattern.search(class_dir.name):
                            raise ImageError(f"the folder's name {fault}: rename the folder")
            for file in entries:
                path = f"{below}/{file.name}"
                if file.name.lower().endswith(IMAGE_SUFFIXES) and below not in self.left_out:
                    with self._leave_out_on_error(path):
                        found = file.stat()
                        if not stat.S_ISREG(found.st_mode):
                            raise ImageError("not a regular file")
                        files.append((path, found.st_size, found.st_mtime_ns))
        return files

    def _common_size(self) -> tuple[int, int]:
        """Return the (width, height) to cache: the size of all images if they share a small one.

        Otherwise it is a square of CACHE_SIZE_PX.
        """
        square = (CACHE_SIZE_PX, CACHE_SIZE_PX)
        sizes: set[tuple[int, int]] = set()
        for number, path in enumerate(self.paths, 1):
            self.progress("measuring images", number, len(self.paths))
            try:
                with open_image(self.folder / path, self.max_pixels) as image:
                    if max(image.size) > NATIVE_MAX_PX:  # a PNG's EXIF may follow all its pixels
                        return square
                    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
                    sizes.add(image.size[::-1] if is_turned else image.size)
            except (ImageError, OSError):  # reported when the image is decoded
                continue
            if len(sizes) > 1:
                return square
        return sizes.pop() if sizes else square

    def _write_images(
        self, draft: Path, split: str, paths: Sequence[str], size: tuple[int, int]
    ) -> list[str]:
        """Write <split>.npy from the images that can be decoded, and return their paths."""
        paths = [path for path in paths if path.startswith(f"{split}/")]
        images = self._decode_all(split, paths, size)
        is_kept = write_images(draft, split, images, (len(paths), size[1], size[0], 3))
        return [path for path, is_one in zip(paths, is_kept, strict=True) if is_one]

    def _decode_all(
        self, split: str, paths: Sequence[str], size: tuple[int, int]
    ) -> Iterator[NDArray[np.uint8] | None]:
        """Yield decoded images in order, using threads; None for an image that is left out."""

        def decode(path: str) -> NDArray[np.uint8] | None:
            with self._leave_out_on_error(path):
                return _decode(self.folder / path, size, self.max_pixels)
            return None

        threads = ThreadPoolExecutor()
        try:
            for done, image in enumerate(threads.map(decode, paths), 1):
                yield image
                self.progress(f"decoding {split} images", done, len(paths))
        finally:
            threads.shutdown(cancel_futures=True)


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """List the entries of a folder, except hidden ones."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _class_of(path: str) -> str:
    return path.split("/")[1]


def _decode(path: Path, size: tuple[int, int], max_pixels: int) -> NDArray[np.uint8]:
    """Read an image, resize it to (width, height), and crop it to its center if necessary."""
    with open_image(path, max_pixels) as image:
        shrink = min(image.width / size[0], image.height / size[1])
        rgb = read_rgb(image, (shrink, shrink))
    return np.asarray(rgb if rgb.size == size else ImageOps.fit(rgb, size))
