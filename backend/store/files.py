"""Write, fingerprint and cache files in the model folder, and explain errors that occur there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from backend.base.errors import ModelFolderError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


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

    Errors are not cached. OSError if the file cannot be found.
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
def folder_errors(folder: Path) -> Iterator[None]:
    """Raise a ModelFolderError in place of an OSError."""
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
