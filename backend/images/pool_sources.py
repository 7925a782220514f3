"""Image sources: cache CIFAR-10 or the digits as arrays, decoded once, as any source is cached.

A cache folder holds
    train.npy, test.npy                  uint8 (images, height, width, 3); test may be empty
    train_labels.npy, test_labels.npy    int64 (images,), positions in the classes
    index.json                           ids of the train images; a folder's paths of the originals
    meta.json                            classes, may_flip, and the images that were left out
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import logging
import shutil
import socket
import ssl
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.base.downloads import download
from backend.base.errors import PoolError
from backend.base.progress import Progress

log = logging.getLogger(__name__)

CACHE_FORMAT = 1
CONNECT_TIMEOUT_S = 5.0
DIGIT_SIZE_PX = 32


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
        write_meta(draft, image_ids, train.classes, may_flip=True)

    return cached(data_dir, "cifar10", "all", write)


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
        write_meta(draft, [image_ids[i] for i in train], classes, may_flip=False)

    return cached(data_dir, "digits", "all", write)


def image_id(path: str) -> str:
    """Short and stable, and the class in the path stays hidden from annotators."""
    return digest(path)


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
    draws = [digest(f"{salt}:{i}") for i in image_ids]
    shuffled = np.array(sorted(range(len(draws)), key=draws.__getitem__), dtype=np.int64)
    rank = np.zeros(len(shuffled), dtype=np.int64)  # among the images of the same class
    is_free = np.zeros(len(shuffled), dtype=bool)
    for label in np.unique(labels):
        same = np.flatnonzero(labels[shuffled] == label)
        rank[same] = np.arange(len(same))
        is_free[same] = rank[same] < int(max_share * len(same))
    return shuffled[is_free][np.argsort(rank[is_free], kind="stable")[:count]]


def cached(data_dir: Path, source: str, fingerprint: str, write: Callable[[Path], None]) -> Path:
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


def _write_split(draft: Path, split: str, images: NDArray[np.uint8], labels: Sequence[int]) -> None:
    np.save(draft / f"{split}.npy", np.ascontiguousarray(images))
    np.save(draft / f"{split}_labels.npy", np.asarray(labels, dtype=np.int64))


def write_meta(
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


def digest(text: str) -> str:
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
