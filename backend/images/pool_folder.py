"""A folder as the pool: find its images, leave out what cannot be used, and cache the rest.

What is left out is named with its reason in the log, and recorded in the cache's meta.json.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps

from backend.base.errors import ImageError, PoolError
from backend.base.progress import Progress
from backend.images.pixels import open_image, read_rgb
from backend.images.pool_sources import CACHE_FORMAT, cached, digest, image_id, write_meta

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Images that all have one size up to this keep it.
NATIVE_MAX_PX = 256
# All others: 1.5 times an IMAGE_SIZE of 64 leaves room for crops; 50,000 take 1.4 GB of disk.
CACHE_SIZE_PX = 96
NAMED_MAX = 20
# A class's name becomes JSON and XML. Python reads bytes that are not UTF-8 as lone surrogates.
NOT_UTF8 = re.compile(r"[\ud800-\udfff]")
NOT_XML = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
LAYOUT = (
    "a pool folder holds train/<class>/*.jpg (or .jpeg, .png) for two or more classes, "
    "and may hold test/<class>/*"
)


def cache_folder(
    folder: Path, data_dir: Path, progress: Progress, *, max_pixels: int, rescan: bool = True
) -> Path:
    """Cache a folder of train/<class>/* and test/<class>/*.

    Without `rescan` a cache that is there is taken as it is: looking whether any of 60,000 files
    has changed takes seconds.
    """
    source = f"folder-{digest(str(folder))}"
    if not rescan:
        kept = list((data_dir / "pools").glob(f"{source}-*-v{CACHE_FORMAT}"))
        if len(kept) == 1:
            return kept[0]
    left_out: dict[str, str] = {}  # path -> why
    files = sorted([*_scan(folder, "train", left_out), *_scan(folder, "test", left_out)])
    # By id, a hash: neither the file system's order nor that of the classes shows in the pool.
    paths = sorted((path for path, _, _ in files), key=image_id)
    fingerprint = digest(
        json.dumps([NATIVE_MAX_PX, CACHE_SIZE_PX, max_pixels, files, sorted(left_out)])
    )

    def write(draft: Path) -> None:
        size = _common_size(folder, paths, max_pixels, progress)

        def decode_split(split: str, of: Sequence[str]) -> list[str]:
            """Write <split>.npy; the paths of its rows."""
            of = [path for path in of if path.startswith(f"{split}/")]
            images = _decode_all(folder, of, size, max_pixels, left_out)
            counted = _counted(images, f"decoding {split} images", len(of), progress)
            is_kept = _write_images(draft / f"{split}.npy", counted, (len(of), size[1], size[0], 3))
            return [path for path, is_one in zip(of, is_kept, strict=True) if is_one]

        train = decode_split("train", paths)
        classes = sorted({_class_of(path) for path in train})
        if len(classes) < 2:
            raise PoolError(
                f"POOL={folder}: {LAYOUT}; with readable images: {classes or 'none'}"
                + (f"; left out: {_named(left_out)}" if left_out else "")
            )
        known = [path for path in paths if _class_of(path) in classes]
        if unknown := {_class_of(path) for path in paths} - {*classes}:
            log.warning("pool: classes without train images left out: %s", sorted(unknown))
        test = decode_split("test", known)
        if left_out:
            log.warning("pool %s: %d left out: %s", folder, len(left_out), _named(left_out))
        for name, kept in (("train", train), ("test", test)):
            labels = [classes.index(_class_of(path)) for path in kept]
            np.save(draft / f"{name}_labels.npy", np.array(labels, dtype=np.int64))
        image_ids = [image_id(path) for path in train]
        write_meta(draft, image_ids, classes, may_flip=True, paths=train, skipped=sorted(left_out))

    return cached(data_dir, source, fingerprint, write)


def _named(left_out: dict[str, str]) -> str:
    named = [f"{path!r} ({reason})" for path, reason in sorted(left_out.items())]
    return "; ".join([*named[:NAMED_MAX], *(["…"] if len(named) > NAMED_MAX else [])])


def _scan(folder: Path, split: str, left_out: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    """(path below the folder, size, mtime in ns) of every image file of a split."""
    try:
        class_dirs = _entries(folder / split)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise PoolError(
            f"POOL={folder}: its folder {split} cannot be read ({error.strerror})"
        ) from None
    for class_dir in class_dirs:
        below = f"{split}/{class_dir.name}"
        try:
            if not stat.S_ISDIR(class_dir.stat().st_mode):
                continue
            entries = _entries(class_dir)
        except OSError as error:  # a link in a circle or to nothing, or no permission
            left_out[below] = str(error.strerror)
            continue
        if NOT_UTF8.search(class_dir.name):
            left_out[below] = "the folder's name is not UTF-8: rename it"
            continue
        if NOT_XML.search(class_dir.name):
            left_out[below] = "the folder's name holds a control character: rename it"
            continue
        for file in entries:
            if not file.name.lower().endswith(IMAGE_SUFFIXES):
                continue
            path = f"{below}/{file.name}"
            try:
                found = file.stat()
            except OSError as error:
                left_out[path] = str(error.strerror)
                continue
            if stat.S_ISREG(found.st_mode):
                yield path, found.st_size, found.st_mtime_ns
            else:
                left_out[path] = "not a file"


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _class_of(path: str) -> str:
    return path.split("/")[1]


def _common_size(
    folder: Path, paths: Sequence[str], max_pixels: int, progress: Progress
) -> tuple[int, int]:
    """(width, height) in the cache: the images' own where all agree and are small, else square."""
    square = (CACHE_SIZE_PX, CACHE_SIZE_PX)
    sizes: set[tuple[int, int]] = set()
    for number, path in enumerate(paths, 1):
        progress("measuring images", number, len(paths))
        try:
            with open_image(folder / path, max_pixels) as image:
                if max(image.size) > NATIVE_MAX_PX:  # a PNG's EXIF may come after all its pixels
                    return square
                is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
                sizes.add(image.size[::-1] if is_turned else image.size)
        except (ImageError, OSError):  # named once it is decoded
            continue
        if len(sizes) > 1:
            return square
    return sizes.pop() if sizes else square


def _decode_all(
    folder: Path,
    paths: Sequence[str],
    size: tuple[int, int],
    max_pixels: int,
    left_out: dict[str, str],
) -> Iterator[NDArray[np.uint8] | None]:
    """Decode images in threads, in order; None for one that is left out."""

    def decode(path: str) -> NDArray[np.uint8] | None:
        try:
            return _decode(folder / path, size, max_pixels)
        except (ImageError, OSError) as error:
            left_out[path] = getattr(error, "strerror", None) or str(error)
        return None

    threads = ThreadPoolExecutor()
    try:
        yield from threads.map(decode, paths)
    finally:
        threads.shutdown(cancel_futures=True)


def _counted(
    images: Iterable[NDArray[np.uint8] | None], phase: str, total: int, progress: Progress
) -> Iterator[NDArray[np.uint8] | None]:
    for done, image in enumerate(images, 1):
        yield image
        progress(phase, done, total)


def _decode(path: Path, size: tuple[int, int], max_pixels: int) -> NDArray[np.uint8]:
    """Read the image at that (width, height), cropped to its middle if it must be."""
    with open_image(path, max_pixels) as image:
        times = min(image.width / size[0], image.height / size[1])
        rgb = read_rgb(image, (times, times))
    return np.asarray(rgb if rgb.size == size else ImageOps.fit(rgb, size))


def _write_images(
    file: Path, images: Iterable[NDArray[np.uint8] | None], shape: tuple[int, ...]
) -> list[bool]:
    """Write an .npy row by row, leaving out what is None; whether each row was written."""

    def write_header(n_rows: int) -> None:
        # numpy pads the header, so that its length stays when the first dimension changes.
        header = {"descr": "|u1", "fortran_order": False, "shape": (n_rows, *shape[1:])}
        np.lib.format.write_array_header_1_0(out, header)  # type: ignore[no-untyped-call]

    # Not a writable memory map: on a full disk that kills the process.
    with file.open("wb") as out:
        write_header(shape[0])
        is_kept = [image is not None and bool(out.write(image.tobytes())) for image in images]
        out.seek(0)
        write_header(sum(is_kept))
    return is_kept
