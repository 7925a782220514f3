"""Image sources: CIFAR-10, digits or a folder in; a cache folder of arrays, decoded once, out.

A cache folder holds
    train.npy, test.npy                  uint8 (images, height, width, 3); test may be empty
    train_labels.npy, test_labels.npy    int64 (images,), positions in the classes
    index.json                           ids of the train images; a folder's paths of the originals
    meta.json                            classes, may_flip, and the images that could not be read
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import logging
import os
import shutil
import socket
import ssl
import urllib.error
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from backend.downloads import download
from backend.errors import PoolError
from backend.progress import Progress

log = logging.getLogger(__name__)

CACHE_FORMAT = 1
CONNECT_TIMEOUT_S = 5.0
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Images that all have one size up to this keep it.
NATIVE_MAX_PX = 256
# All others: 1.5 times an IMAGE_SIZE of 64 leaves room for crops; 50,000 take 1.4 GB of disk.
CACHE_SIZE_PX = 96
DIGIT_SIZE_PX = 32
LAYOUT = (
    "a pool folder holds train/<class>/*.jpg (or .jpeg, .png) for two or more classes, "
    "and may hold test/<class>/*"
)


class Cifar10UnavailableError(PoolError):
    """CIFAR-10 is neither cached nor downloadable; POOL=auto can do without."""


def cache_cifar10(data_dir: Path, progress: Progress) -> Path:
    """CIFAR-10 by torchvision: what lies in data_dir, unpacked or packed, or else a download."""

    def write(draft: Path) -> None:
        # Seconds of imports, and not needed once the cache is there.
        from torchvision.datasets import CIFAR10

        try:
            with _default_timeout(CONNECT_TIMEOUT_S):
                archive = data_dir / CIFAR10.filename
                if not archive.exists() and not (data_dir / CIFAR10.base_folder).exists():
                    # torchvision's own bar would fill a log with half lines.
                    download(
                        CIFAR10.url, archive, "CIFAR-10", progress, timeout_s=CONNECT_TIMEOUT_S
                    )
                progress("unpacking CIFAR-10", 0, 0)
                train = CIFAR10(data_dir, train=True, download=True)
            test = CIFAR10(data_dir, train=False)
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ssl.SSLError,
            TimeoutError,
            ConnectionError,
            RuntimeError,  # a wrong checksum
        ) as error:
            reason = getattr(error, "reason", error)
            raise Cifar10UnavailableError(f"CIFAR-10 could not be had ({reason})") from error
        _write_split(draft, "train", train.data, train.targets)
        _write_split(draft, "test", test.data, test.targets)
        image_ids = [f"cifar10-{i:05d}" for i in range(len(train))]
        _write_meta(draft, image_ids, train.classes, may_flip=True)

    return _cached(data_dir, "cifar10", "all", write)


def cache_digits(data_dir: Path) -> Path:
    """scikit-learn's 1,797 handwritten digits, enlarged; a balanced fifth is the test split."""

    def write(draft: Path) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.stack([_enlarged(grey) for grey in digits.images])
        image_ids = [f"digits-{i:04d}" for i in range(len(images))]
        test = balanced(image_ids, digits.target, len(images) // 5, "digits-test")
        train = np.setdiff1d(np.arange(len(images)), test)
        _write_split(draft, "train", images[train], digits.target[train])
        _write_split(draft, "test", images[test], digits.target[test])
        classes = [str(digit) for digit in digits.target_names]
        _write_meta(draft, [image_ids[i] for i in train], classes, may_flip=False)

    return _cached(data_dir, "digits", "all", write)


def cache_folder(folder: Path, data_dir: Path, progress: Progress, *, rescan: bool = True) -> Path:
    """A folder of train/<class>/* and test/<class>/*; unreadable images are left out and named.

    Without `rescan` a cache that is there is taken as it is: looking whether any of 60,000 files
    has changed takes seconds.
    """
    source = f"folder-{_digest(str(folder))}"
    if not rescan:
        kept = list((data_dir / "pools").glob(f"{source}-*-v{CACHE_FORMAT}"))
        if len(kept) == 1:
            return kept[0]
    files = sorted([*_scan(folder, "train"), *_scan(folder, "test")])
    # By id, a hash: neither the file system's order nor that of the classes shows in the pool.
    paths = sorted((path for path, _, _ in files), key=image_id)

    def write(draft: Path) -> None:
        size = _common_size(folder, paths, progress)
        train, skipped = _decode_split(folder, paths, "train", size, draft, progress)
        classes = sorted({_class_of(path) for path in train})
        if len(classes) < 2:
            raise PoolError(f"POOL={folder}: {LAYOUT}; with readable images: {classes or 'none'}")
        known = [path for path in paths if _class_of(path) in classes]
        if unknown := {_class_of(path) for path in paths} - {*classes}:
            log.warning("pool: classes without train images left out: %s", sorted(unknown))
        test, skipped_of_test = _decode_split(folder, known, "test", size, draft, progress)
        skipped += skipped_of_test
        if skipped:
            log.warning("pool: %d unreadable images left out: %s", len(skipped), skipped[:20])
        for name, kept in (("train", train), ("test", test)):
            labels = [classes.index(_class_of(path)) for path in kept]
            np.save(draft / f"{name}_labels.npy", np.array(labels, dtype=np.int64))
        image_ids = [image_id(path) for path in train]
        _write_meta(draft, image_ids, classes, may_flip=True, paths=train, skipped=skipped)

    fingerprint = _digest(json.dumps([NATIVE_MAX_PX, CACHE_SIZE_PX, files]))
    return _cached(data_dir, source, fingerprint, write)


def image_id(path: str) -> str:
    """Short and stable, and the class in the path stays hidden from annotators."""
    return _digest(path)


def balanced(
    image_ids: Sequence[str],
    labels: NDArray[np.int64],
    count: int,
    salt: str,
    *,
    max_share: float = 1.0,
) -> NDArray[np.int64]:
    """Positions of `count` images, the classes (`max_share` of each at most) as even as can be.

    Drawn by hashed ids: the same on every machine, and hardly changed by images added later.
    """
    draws = [_digest(f"{salt}:{i}") for i in image_ids]
    shuffled = np.array(sorted(range(len(draws)), key=draws.__getitem__), dtype=np.int64)
    rank = np.zeros(len(shuffled), dtype=np.int64)  # among the images of the same class
    is_free = np.zeros(len(shuffled), dtype=bool)
    for label in np.unique(labels):
        same = np.flatnonzero(labels[shuffled] == label)
        rank[same] = np.arange(len(same))
        is_free[same] = rank[same] < int(max_share * len(same))
    return shuffled[is_free][np.argsort(rank[is_free], kind="stable")[:count]]


def upright_rgb(image: Image.Image) -> Image.Image:
    """As a browser shows it: turned by its EXIF orientation, white where transparent."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # 16-bit grey
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _cached(data_dir: Path, source: str, fingerprint: str, write: Callable[[Path], None]) -> Path:
    """The cache folder, filled by `write` unless it is there; never half, never by two at once."""
    pools = data_dir / "pools"
    folder = pools / f"{source}-{fingerprint}-v{CACHE_FORMAT}"
    if folder.exists():
        return folder
    pools.mkdir(parents=True, exist_ok=True)
    with (pools / f"{source}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("pool: waiting for another process to fill %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        draft = pools / f"{source}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            write(draft)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(folder)
        # Who has an outdated one open keeps its mapped images.
        for outdated in set(pools.glob(f"{source}-*")) - {folder}:
            shutil.rmtree(outdated, ignore_errors=True)
    return folder


def _scan(folder: Path, split: str) -> Iterator[tuple[str, int, int]]:
    """(path below the folder, size, mtime in ns) of every image file of a split."""
    if not (folder / split).is_dir():
        return
    for class_dir in os.scandir(folder / split):
        if class_dir.name.startswith(".") or not class_dir.is_dir():
            continue
        for file in os.scandir(class_dir):
            is_image = file.name.lower().endswith(IMAGE_SUFFIXES) and file.is_file()
            if is_image and not file.name.startswith("."):
                stat = file.stat()
                yield f"{split}/{class_dir.name}/{file.name}", stat.st_size, stat.st_mtime_ns


def _class_of(path: str) -> str:
    return path.split("/")[1]


def _common_size(folder: Path, paths: Sequence[str], progress: Progress) -> tuple[int, int]:
    """(width, height) in the cache: the images' own where all agree and are small, else square."""
    square = (CACHE_SIZE_PX, CACHE_SIZE_PX)
    sizes: set[tuple[int, int]] = set()
    for number, path in enumerate(paths, 1):
        progress("measuring images", number, len(paths))
        try:
            with Image.open(folder / path) as image:
                is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
                sizes.add(image.size[::-1] if is_turned else image.size)
        except Exception:  # broken: named once it is decoded
            continue
        if len(sizes) > 1 or max(max(sizes)) > NATIVE_MAX_PX:
            return square
    return sizes.pop() if sizes else square


def _decode_split(
    folder: Path,
    paths: Sequence[str],
    split: str,
    size: tuple[int, int],
    draft: Path,
    progress: Progress,
) -> tuple[list[str], list[str]]:
    """Write <split>.npy; the paths of its rows, and of the images that could not be read."""
    paths = [path for path in paths if path.startswith(f"{split}/")]
    threads = ThreadPoolExecutor()
    try:
        images = threads.map(lambda path: _decode(folder / path, size), paths)
        counted = _counted(images, f"decoding {split} images", len(paths), progress)
        is_kept = _write_images(draft / f"{split}.npy", counted, (len(paths), size[1], size[0], 3))
    finally:
        threads.shutdown(cancel_futures=True)
    kept = [path for path, is_one in zip(paths, is_kept, strict=True) if is_one]
    return kept, sorted({*paths} - {*kept})


def _counted(
    images: Iterable[NDArray[np.uint8] | None], phase: str, total: int, progress: Progress
) -> Iterator[NDArray[np.uint8] | None]:
    for done, image in enumerate(images, 1):
        yield image
        progress(phase, done, total)


def _decode(path: Path, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The image at that (width, height), cropped to its middle where it must; None if broken."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * size[0], 2 * size[1]))  # a large JPEG is decoded at a fraction
            rgb = upright_rgb(image)
    except Exception:  # Pillow raises nearly anything on broken files
        return None
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


def _write_split(draft: Path, split: str, images: NDArray[np.uint8], labels: Sequence[int]) -> None:
    np.save(draft / f"{split}.npy", np.ascontiguousarray(images))
    np.save(draft / f"{split}_labels.npy", np.asarray(labels, dtype=np.int64))


def _write_meta(
    draft: Path,
    image_ids: Sequence[str],
    classes: Sequence[str],
    *,
    may_flip: bool,
    paths: Sequence[str] = (),
    skipped: Sequence[str] = (),
) -> None:
    (draft / "index.json").write_text(json.dumps({"image_ids": image_ids, "paths": paths}))
    meta = {"classes": classes, "may_flip": may_flip, "skipped": skipped}
    (draft / "meta.json").write_text(json.dumps(meta, indent=1))


def _enlarged(grey: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A digit of 8 x 8 values in 0..16 as RGB; smooth, since blocks hide the strokes."""
    small = Image.fromarray((grey * 255 / 16).astype(np.uint8))
    large = small.resize((DIGIT_SIZE_PX, DIGIT_SIZE_PX), Image.Resampling.BILINEAR)
    return np.asarray(large.convert("RGB"))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


@contextmanager
def _default_timeout(seconds: float) -> Iterator[None]:
    """For urllib in torchvision, which sets none; all sockets made meanwhile get it too."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
