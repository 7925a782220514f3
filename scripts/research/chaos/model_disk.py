"""Put a stack's model folder on a separate disk, which can be filled."""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

SIZE = "16g"  # a tmpfs takes only as much memory as its files do
# The largest file that a process can still write if no separate disk can be filled.
LARGEST_FILE_BYTES = 64 * 1024


@contextmanager
def model_disk() -> Iterator[Path]:
    """Yield a folder on a separate disk, or an ordinary folder if nothing may be mounted here."""
    folder = Path(tempfile.mkdtemp(prefix="tightloop-models-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tightloop", str(folder)]
    subprocess.run(mount, check=False, stderr=subprocess.DEVNULL)
    try:
        yield folder
    finally:
        if folder.is_mount():
            # A process that has not quite ended may have a file open here.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder)


def fill_disk(folder: Path, writers: list[psutil.Process]) -> None:
    """Leave no space on the disk of this folder.

    If the folder is not on a separate disk, keep `writers` from writing long files instead.
    """
    if folder.is_mount():
        used = shutil.disk_usage(folder).used
        _resize(folder, str(used))
        return
    for process in writers:
        _limit_files(process, LARGEST_FILE_BYTES)


def free_disk(folder: Path, writers: list[psutil.Process]) -> None:
    """Undo what `fill_disk` did."""
    if folder.is_mount():
        _resize(folder, SIZE)
        return
    for process in writers:
        _limit_files(process, resource.RLIM_INFINITY)


def _resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def _limit_files(process: psutil.Process, n_bytes: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.rlimit(psutil.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))
