"""Write, lock, hash and cache files in the model folder, and explain errors that occur there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar, TypeVarTuple

from backend.base.errors import ModelFolderError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LOCK_POLL_S = 0.2


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees either the old text or the new text in full."""
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    with folder_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 digest in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_until_changed(
    maxsize: int,
) -> Callable[[Callable[[Path, *Ts], T]], Callable[[Path, *Ts], T]]:
    """Cache a function's result for a file until the file's modification time or size changes.

    Errors are not cached. Raises OSError if the file does not exist.
    """

    def decorate(read: Callable[[Path, *Ts], T]) -> Callable[[Path, *Ts], T]:
        @lru_cache(maxsize)
        def read_cached(path: Path, _mtime_ns: int, _size: int, *args: *Ts) -> T:
            return read(path, *args)

        def read_unless_cached(path: Path, *args: *Ts) -> T:
            found = path.stat()
            return read_cached(path, found.st_mtime_ns, found.st_size, *args)

        return read_unless_cached

    return decorate


@contextmanager
def lock(
    root: Path,
    name: Literal["train", "head", "push", "promote", "review", "record", "attach", "import"],
    wait_s: float | None = None,
) -> Iterator[None]:
    """Hold one of the project's locks; the operating system releases it if the process dies.

    backend/workers/jobs.py explains what happens when a worker dies. Waits indefinitely by default;
    with `wait_s`, raises ModelFolderError after that many seconds.
    """
    path = root / f"{name}.lock"
    give_up = None if wait_s is None else time.monotonic() + wait_s
    with folder_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if give_up is not None and time.monotonic() > give_up:
                    raise ModelFolderError(
                        f"{path} is locked by another process: wait for it to end and try again"
                    ) from None
                time.sleep(LOCK_POLL_S)
        yield


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Replace any OSError with a ModelFolderError that explains what to check."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename:
            reason = f"{error.filename}: {reason}"
        raise ModelFolderError(
            f"the model folder {folder} cannot be used ({reason}): "
            "check MODEL_DIR, its permissions and the free space"
        ) from error
