"""Generate a bucket with any number of photographs of any size, without using disk space.

After `register`, s3://<count>-photos-<width>x<height>/ refers to such a bucket in this process, for
example s3://200000-photos-320x240/. All photographs differ: they share a few encoded pictures, and
each has a comment with its number.
"""

from __future__ import annotations

import io
import re
from functools import cached_property, lru_cache
from typing import Any

import fsspec
import numpy as np
from PIL import Image

PICTURES = 4
PER_FOLDER = 1000
COARSE_PX, NOISE = 16, 6  # the sizes of the structures and of the grain in a picture
QUALITY = 85
COMMENT_BYTES = 16
BUCKET = re.compile(r"(\d+)-photos-(\d+)x(\d+)")


class GeneratedBucket(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """List and read photographs as s3fs does, without a server."""

    def find(self, path: str, *_: object, **__: object) -> dict[str, dict[str, Any]]:
        """Return the properties of all photographs, with the keys that s3fs uses."""
        bucket, photographs = _open_bucket(path)
        return {
            name: {
                "Key": name,
                "LastModified": "2026-01-01T00:00:00+00:00",
                "ETag": f'"{number:032x}"',
                "Size": size,
                "StorageClass": "STANDARD",
                "type": "file",
                "size": size,
                "name": name,
            }
            for number in range(photographs.count)
            for name, size in [(f"{bucket}/{_key(number)}", photographs.size(number))]
        }

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        """Return one photograph; raise FileNotFoundError if it does not exist."""
        photographs = _open_bucket(path)[1]
        number = int(path.rpartition("/")[2].removesuffix(".jpg"))
        if number >= photographs.count:
            raise FileNotFoundError(path)
        return photographs.read(number)


class Photographs:
    """A set of photographs of the same size."""

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.count, self._size = count, size

    def size(self, number: int) -> int:
        """Return the size of a photograph's file in bytes."""
        return len(self._pictures[number % PICTURES]) + 4 + COMMENT_BYTES

    def read(self, number: int) -> bytes:
        """Return a photograph as a JPEG file."""
        picture = self._pictures[number % PICTURES]
        # A comment consists of its marker, its length (including these two bytes) and its text.
        comment = b"\xff\xfe" + (2 + COMMENT_BYTES).to_bytes(2) + b"%016d" % number
        return picture[:2] + comment + picture[2:]  # after the marker that starts every JPEG

    @cached_property
    def _pictures(self) -> list[bytes]:
        rng = np.random.default_rng(0)
        return [_make_picture(rng, self._size) for _ in range(PICTURES)]


def register() -> None:
    """Make s3:// addresses refer to generated buckets in this process."""
    fsspec.register_implementation("s3", GeneratedBucket, clobber=True)


def bucket_url(count: int, width: int, height: int) -> str:
    """Return the address of a bucket with `count` photographs."""
    return f"s3://{count}-photos-{width}x{height}/"


def _open_bucket(path: str) -> tuple[str, Photographs]:
    """Return a bucket's name and photographs; raise FileNotFoundError if it does not exist."""
    bucket = path.removeprefix("s3://").partition("/")[0]
    if not (parts := BUCKET.fullmatch(bucket)):
        raise FileNotFoundError(path)
    return bucket, _photographs(*map(int, parts.groups()))


@lru_cache(maxsize=1)
def _photographs(count: int, width: int, height: int) -> Photographs:
    return Photographs(count, (width, height))


def _key(number: int) -> str:
    return f"{number // PER_FOLDER:04d}/{number:08d}.jpg"


def _make_picture(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Return a JPEG file of smooth random structures with some grain."""
    width, height = size
    shape = (-(-height // COARSE_PX), -(-width // COARSE_PX), 3)
    coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-NOISE, NOISE + 1, smooth.shape, dtype=np.int8)
    file = io.BytesIO()
    picture = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
