"""Keep the decoded images of a source on disk, so that each image is decoded only once.

The folder of a pixel store contains
    pixels.bin    uint8 rows of height x width x 3, only ever appended to
    rows.txt      the height and width, then a line for each row: image id, stamp, content hash
A row whose line is missing or incomplete is cut off before the next append. If an image has several
rows, the last one counts. The store is a cache, so it may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from backend.base.arrays import Images, RowView
from backend.base.errors import ImageError
from backend.base.progress import Progress
from backend.images.decode import open_image
from backend.images.digest import digest
from backend.images.framing import FramingName, View, frame

CHUNK = 64  # images decoded between two appends
SPOOLED_BYTES = 16 * 1024**2  # a larger original is copied to disk while it is decoded
BLOCK_BYTES = 1024**2
MEASURED = 256  # how many images to measure when choosing one size for all rows
MIDDLE_NATIVE_MAX_PX = 256

Prefetch = Callable[[Sequence[str]], None]
Open = Callable[[str], BinaryIO]  # opens the original at a location; raises ImageError or OSError


@dataclass(frozen=True)
class Original:
    """An image that a source offers."""

    image_id: str
    location: str
    stamp: str  # changes whenever the image changes


@dataclass
class Decoded:
    """The outcome, for each image, of one call to `decode`."""

    contents: dict[str, str] = field(default_factory=dict)  # image id -> hash of the file
    damaged: dict[str, str] = field(default_factory=dict)  # image id -> reason
    unreadable: dict[str, str] = field(default_factory=dict)  # image id -> reason, maybe temporary

    def add(self, other: Decoded) -> None:
        """Add the outcome for other images."""
        self.contents |= other.contents
        self.damaged |= other.damaged
        self.unreadable |= other.unreadable


def stamp(size: int, modified: str) -> str:
    """Return a short text that changes if an original's size or modification time changes."""
    return digest(f"{size} {modified}")


class PixelStore:
    """The decoded images of one source in one framing and size."""

    def __init__(self, folder: Path, view: View, max_pixels: int) -> None:
        self.folder, self.framing, self.max_pixels = folder, view.framing, max_pixels
        self._side_px = view.side_px
        self._shape = (self._side_px, self._side_px)  # unless the first line of rows.txt differs
        self._row_of: dict[str, tuple[int, str, str]] = {}  # image id -> row, stamp, content
        self._n_rows = self._n_bytes_read = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the rows that any process has appended since the last call."""
        try:
            with (self.folder / "rows.txt").open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._n_bytes_read:
                    self._forget()  # the store was deleted and created again
                file.seek(self._n_bytes_read)
                added = file.read()
            n_whole = (self.folder / "pixels.bin").stat().st_size
        except FileNotFoundError:
            self._forget()
            return
        lines = added[: added.rfind(b"\n") + 1].decode().splitlines(keepends=True)
        if lines and not self._n_bytes_read:
            header = lines.pop(0)
            sides = header.split()
            if len(sides) != 2 or not all(side.isdecimal() for side in sides):
                return  # the header is damaged, so the next append starts over
            self._shape = (int(sides[0]), int(sides[1]))
            self._n_bytes_read = len(header)
        for line in lines:
            # After a power failure, a line may be damaged, or may lack its pixels.
            if len(line.split()) != 3 or (self._n_rows + 1) * self._row_bytes > n_whole:
                return
            image_id, of_original, content = line.split()
            self._row_of[image_id] = (self._n_rows, of_original, content)
            self._n_rows += 1
            self._n_bytes_read += len(line)

    def content(self, original: Original) -> str:
        """Return an image's content hash, or "" if it is not decoded or the file has changed."""
        _, of_original, content = self._row_of.get(original.image_id, (0, "", ""))
        return content if of_original == original.stamp else ""

    def holds(self, image_id: str) -> bool:
        """Return whether an image is decoded, even if its original has changed since."""
        return image_id in self._row_of

    def images(self, image_ids: Sequence[str]) -> Images:
        """Return decoded images. Raises KeyError if an image is not decoded."""
        rows = np.array([self._row_of[image_id][0] for image_id in image_ids], dtype=np.int64)
        shape = (self._n_rows, *self._shape, 3)
        if not len(rows):  # an empty file cannot be mapped
            return np.empty(shape, np.uint8)[:0]
        return RowView(np.memmap(self.folder / "pixels.bin", np.uint8, "r", shape=shape), rows)

    def decode(
        self,
        originals: Sequence[Original],
        open_original: Open,
        progress: Progress,
        until: float = math.inf,
        prefetch: Prefetch = lambda _: None,
    ) -> Decoded:
        """Decode the images that are not yet decoded, in order, until time.monotonic() > `until`.

        At least one chunk is decoded. Decoding also ends if none of the images in a chunk can be
        opened, because then the whole source is probably unavailable. `prefetch` is called with the
        locations of the images that will be opened next.
        """
        found = Decoded()
        missing = []
        for original in originals:
            if content := self.content(original):
                found.contents[original.image_id] = content
            else:
                missing.append(original)
        if not missing:
            return found
        if not self._n_bytes_read:
            prefetch([one.location for one in missing[:MEASURED]])
            self._begin(missing, open_original)
        with ThreadPoolExecutor() as threads:
            for first in range(0, len(missing), CHUNK):
                chunk = missing[first : first + CHUNK]
                prefetch([one.location for one in chunk])
                pixels = threads.map(lambda one: self._decode(one, open_original), chunk)
                n_readable = self._keep(zip(chunk, pixels, strict=True), found)
                progress("decoding images", first + len(chunk), len(missing))
                if not n_readable or time.monotonic() > until:
                    break
        return found

    def _forget(self) -> None:
        self._shape = (self._side_px, self._side_px)
        self._row_of.clear()
        self._n_rows = self._n_bytes_read = 0

    @property
    def size(self) -> tuple[int, int]:
        """Return the width and height of the decoded images."""
        return self._shape[1], self._shape[0]

    @property
    def _row_bytes(self) -> int:
        return self._shape[0] * self._shape[1] * 3

    def _decode(
        self, original: Original, open_original: Open
    ) -> tuple[NDArray[np.uint8], str] | ImageError | OSError:
        """Return an image's pixels and content hash, or the error that prevented decoding."""
        try:
            location = original.location
            return decode_original(
                open_original, location, self.framing, self.size, self.max_pixels
            )
        except (ImageError, OSError) as error:
            return error

    def _keep(
        self,
        decoded: Iterable[tuple[Original, tuple[NDArray[np.uint8], str] | ImageError | OSError]],
        found: Decoded,
    ) -> int:
        """Append decoded images to the store, and return how many images could be read."""
        new: list[tuple[Original, NDArray[np.uint8], str]] = []
        n_damaged = len(found.damaged)
        for original, result in decoded:
            if isinstance(result, ImageError):
                found.damaged[original.image_id] = str(result)
            elif isinstance(result, OSError):
                found.unreadable[original.image_id] = result.strerror or str(result)
            else:
                new.append((original, *result))
                found.contents[original.image_id] = result[1]
        with self._open_to_append(self._shape) as (pixels_file, rows_file):
            # Another process may have appended some of these images or chosen another size.
            lacking = [
                (original, pixels, content)
                for original, pixels, content in new
                if not self.content(original) and pixels.shape[:2] == self._shape
            ]
            for _, pixels, _ in lacking:
                pixels_file.write(pixels.tobytes())
            pixels_file.flush()
            os.fsync(pixels_file.fileno())
            rows_file.writelines(
                f"{original.image_id} {original.stamp} {content}\n".encode()
                for original, _, content in lacking
            )
        self.refresh()
        return len(new) + len(found.damaged) - n_damaged

    @contextmanager
    def _open_to_append(self, shape: tuple[int, int]) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Lock the store, cut off incomplete rows, and open both files for appending."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            # With a writable memory map, a full disk would kill the process.
            with (
                (self.folder / "pixels.bin").open("ab") as pixels_file,
                (self.folder / "rows.txt").open("ab") as rows_file,
            ):
                pixels_file.truncate(self._n_rows * self._row_bytes)
                rows_file.truncate(self._n_bytes_read)
                if not self._n_bytes_read:
                    rows_file.write(f"{shape[0]} {shape[1]}\n".encode())
                yield pixels_file, rows_file

    def _begin(self, originals: Sequence[Original], open_original: Open) -> None:
        """Choose the height and width of all rows, and write them to rows.txt.

        Images keep their size if all have the same small size and the framing would not change
        their shape.
        """
        sizes: set[tuple[int, int]] = set()
        for original in originals[:MEASURED]:
            try:
                with (
                    _spooled(open_original, original.location) as (file, _),
                    open_image(file, self.max_pixels) as image,
                ):
                    sizes.add(_upright_size(image))
            except (ImageError, OSError):  # the error is reported when the image is decoded
                continue
            if len(sizes) > 1 or not self._is_native(*sizes):
                break
        if not sizes:
            return  # no image can be read now
        is_native = len(sizes) == 1 and self._is_native(*sizes)
        with self._open_to_append(sizes.pop()[::-1] if is_native else self._shape):
            pass
        self.refresh()

    def _is_native(self, size: tuple[int, int]) -> bool:
        if self.framing == "middle":
            return max(size) <= MIDDLE_NATIVE_MAX_PX
        return size[0] == size[1] <= self._side_px


def decode_original(
    open_original: Open, location: str, framing: FramingName, size: tuple[int, int], max_pixels: int
) -> tuple[NDArray[np.uint8], str]:
    """Return an original's pixels, (height, width, 3), and content hash.

    `size` is (width, height). Raises ImageError or OSError.
    """
    with (
        _spooled(open_original, location) as (file, content),
        open_image(file, max_pixels) as image,
    ):
        return frame(image, framing, size), content


@contextmanager
def _spooled(open_original: Open, location: str) -> Iterator[tuple[IO[bytes], str]]:
    """Read an original once; yield a file that can be read repeatedly, and its content hash."""
    content = hashlib.blake2b(digest_size=16)
    with SpooledTemporaryFile(SPOOLED_BYTES) as copy:
        with open_original(location) as original:
            while block := original.read(BLOCK_BYTES):
                content.update(block)
                copy.write(block)
        copy.seek(0)
        yield copy, content.hexdigest()


def _upright_size(image: Image.Image) -> tuple[int, int]:
    if max(image.size) > MIDDLE_NATIVE_MAX_PX:  # in a PNG, EXIF data may follow the pixels
        return image.size
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return image.size[::-1] if is_turned else image.size
