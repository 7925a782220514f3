"""Provide CIFAR-10 as the pool."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.base.downloads import download
from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.images.pool_cache import open_cache, write_meta, write_split

CONNECT_TIMEOUT_S = 5.0


class Cifar10UnavailableError(PoolError):
    """CIFAR-10 is neither cached nor downloadable; POOL=auto uses the digits instead."""


def cache_cifar10(data_dir: Path, progress: Progress) -> Path:
    """Cache CIFAR-10 from data_dir (packed or unpacked), or download it.

    Raises Cifar10UnavailableError.
    """

    def write(draft: Path) -> None:
        # This import takes seconds, and is not needed once the cache exists.
        from torchvision.datasets import CIFAR10

        try:
            with _default_timeout(CONNECT_TIMEOUT_S):
                archive = data_dir / CIFAR10.filename
                if not archive.exists() and not (data_dir / CIFAR10.base_folder).exists():
                    # torchvision's own progress bar would fill a log with broken lines.
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
            raise Cifar10UnavailableError(f"CIFAR-10 is unavailable ({reason})") from error
        write_split(draft, "train", train.data, train.targets)
        write_split(draft, "test", test.data, test.targets)
        image_ids = [f"cifar10-{i:05d}" for i in range(len(train))]
        write_meta(draft, image_ids, train.classes, may_flip=True)

    return open_cache(data_dir, "cifar10", "all", write)


@contextmanager
def _default_timeout(seconds: float) -> Iterator[None]:
    """Set the default timeout of all new sockets, because torchvision sets none for urllib."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
