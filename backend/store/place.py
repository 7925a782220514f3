"""Read and write the files of one folder, on this machine or in a bucket.

Every file is written as a whole: a reader sees the old content or the new. Errors say what to
check, and contain no credentials.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pyarrow as pa

from backend.base.errors import ModelFolderError
from backend.images.bucket import PACKAGES, BucketFiles
from backend.store.files import folder_errors


class Place(Protocol):
    """A folder."""

    @property
    def address(self) -> str:
        """Return the folder's path, or its URL."""

    def below(self, name: str) -> Place:
        """Return a folder in this folder, which need not exist."""

    def names(self) -> list[str]:
        """Return the names of the files and folders in this folder, or [] if it does not exist."""

    def read(self, name: str) -> bytes:
        """Return a file's content. Raises FileNotFoundError."""

    def write(self, name: str, content: bytes) -> None:
        """Create a file, or replace it."""

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading in any order. Raises FileNotFoundError."""

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with everything in it, if it exists."""


def find_place(address: str | Path) -> Place:
    """Return the folder at a path, or at a bucket's URL.

    Raises ModelFolderError if the URL cannot be used.
    """
    scheme = urlsplit(str(address)).scheme
    return BucketPlace(str(address)) if scheme in PACKAGES else LocalPlace(Path(address))


class LocalPlace:
    """A folder on this machine, perhaps on a disk that other machines share."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()  # other processes may work in other folders

    @property
    def address(self) -> str:
        """Return the folder's path."""
        return str(self.path)

    def below(self, name: str) -> LocalPlace:
        """Return a folder in this folder; see `Place.below`."""
        return LocalPlace(self.path / name)

    def names(self) -> list[str]:
        """Return the names of the files and folders; see `Place.names`."""
        with folder_errors(self.path):
            return sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []

    def read(self, name: str) -> bytes:
        """Return a file's content. Raises FileNotFoundError."""
        with _unless_missing(self.path):
            return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Create a file, or replace it."""
        draft = self.path / f".{name}.draft-{os.getpid()}"
        with folder_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(self.path / name)

    def open(self, name: str) -> pa.NativeFile:
        """Map a file into memory, so that only what is used is read. Raises FileNotFoundError."""
        with _unless_missing(self.path):
            return pa.memory_map(str(self.path / name))

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with everything in it, if it exists."""
        path = self.path / name
        with folder_errors(self.path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class BucketPlace:
    """A folder below s3://bucket/ or gs://bucket/."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        with _bucket_errors(self._url):
            self._files = BucketFiles(url)

    def __reduce__(self) -> tuple[type[BucketPlace], tuple[str]]:
        return BucketPlace, (self._url,)  # a connection belongs to one process

    @property
    def address(self) -> str:
        """Return the folder's URL."""
        return self._url

    def below(self, name: str) -> BucketPlace:
        """Return a folder in this folder; see `Place.below`."""
        return BucketPlace(f"{self._url}/{name}")

    def names(self) -> list[str]:
        """Return the names of the files and folders; see `Place.names`."""
        with _bucket_errors(self._url):
            found = self._files.find()
        return sorted({url.removeprefix(f"{self._url}/").split("/")[0] for url in found})

    def read(self, name: str) -> bytes:
        """Return a file's content. Raises FileNotFoundError."""
        with _bucket_errors(self._url):
            return self._files.read(f"{self._url}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Create a file, or replace it."""
        with _bucket_errors(self._url):
            self._files.write(f"{self._url}/{name}", content)

    def open(self, name: str) -> pa.NativeFile:
        """Read a whole file, because a bucket answers one large request sooner than many."""
        return pa.BufferReader(self.read(name))

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with everything in it, if it exists."""
        with _bucket_errors(self._url):
            self._files.delete(f"{self._url}/{name}")


@contextmanager
def _unless_missing(folder: Path) -> Iterator[None]:
    """Explain any OSError except that a file is missing."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError:
        with folder_errors(folder):
            raise


@contextmanager
def _bucket_errors(url: str) -> Iterator[None]:
    """Explain any OSError except that a file is missing."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelFolderError(f"STORE={url} cannot be used: {error}") from None
