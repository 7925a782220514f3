"""Write a file or a folder of results so that it appears complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.base.errors import ExportError

# A folder without this file was not made by an export and may contain anything, so it is never
# replaced.
MARKER = ".tightloop-export"
MARKER_TEXT = "Written by `python -m scripts.export`; --force replaces this whole folder.\n"


@contextmanager
def new_file(path: Path, *, is_forced: bool) -> Iterator[Path]:
    """Yield the path of a draft, which replaces `path` when the block ends without an error.

    Raises ExportError if `path` exists and `is_forced` is not set, or if it cannot be written.
    """
    with _output_errors(path):
        if path.is_dir():
            raise ExportError(f"{path} is a folder: name a file in it")
        _check_free(path, is_taken=path.exists(), is_forced=is_forced)
        with _draft_of(path) as draft:
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)


@contextmanager
def new_folder(path: Path, *, is_forced: bool) -> Iterator[Path]:
    """Yield the path of a draft folder, which replaces `path` when the block ends without an error.

    A folder that is not empty is replaced only if an export made it and `is_forced` is set. Raises
    ExportError if the folder must not be replaced, or if it cannot be written.
    """
    with _output_errors(path):
        if path.is_symlink() or not path.name:
            raise ExportError(f"{path} is a link or has no name: name a new folder")
        is_taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
        if is_taken and not (path / MARKER).is_file():
            raise ExportError(f"{path} already exists and is not an export: choose another path")
        _check_free(path, is_taken=is_taken, is_forced=is_forced)
        with _draft_of(path) as draft:
            draft.mkdir()
            (draft / MARKER).write_text(MARKER_TEXT)
            yield draft
            _replace_folder(path, draft)


def _replace_folder(path: Path, draft: Path) -> None:
    """Rename a draft folder to `path`; a failure leaves the former folder in place."""
    if not path.exists():
        draft.rename(path)
        return
    former = path.with_name(f".{path.name}.former-{os.getpid()}")
    path.rename(former)  # a folder cannot be renamed to one that contains files
    try:
        draft.rename(path)
    except BaseException:
        former.rename(path)
        raise
    shutil.rmtree(former)


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`, and delete what the block leaves there."""
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a container, an export that was killed may have had the same process id.
    _delete(draft)
    try:
        yield draft
    finally:
        _delete(draft)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _check_free(path: Path, *, is_taken: bool, is_forced: bool) -> None:
    if is_taken and not is_forced:
        raise ExportError(f"{path} already exists: choose another path, or replace it with --force")


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Replace any OSError with an ExportError that explains what to check."""
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({error.strerror or error}): check the path, its "
            "permissions and the free space; nothing was changed"
        ) from error
