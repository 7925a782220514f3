"""Write files and folders that appear complete or not at all."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.base.errors import ExportError
from backend.results.output import MARKER, new_file, new_folder


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond `free_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_file(path: Path, text: str, *, is_forced: bool = False) -> None:
    with new_file(path, is_forced=is_forced) as draft:
        draft.write_text(text)


def write_folder(path: Path, name: str, text: str = "", *, is_forced: bool = False) -> None:
    with new_folder(path, is_forced=is_forced) as draft:
        (draft / name).write_text(text)


def contents(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_an_existing_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "new/labels.csv"
    write_file(path, "first")
    with pytest.raises(ExportError, match=r"already exists: .*--force"):
        write_file(path, "second")
    assert path.read_text() == "first"
    write_file(path, "second", is_forced=True)
    assert path.read_text() == "second"
    assert contents(path.parent) == ["labels.csv"]


def test_a_file_is_not_written_over_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is a folder"):
        write_file(tmp_path, "", is_forced=True)


@pytest.mark.parametrize("is_forced", [False, True])
def test_a_full_disk_leaves_no_half_file_and_the_former_file(
    is_forced: bool, tmp_path: Path
) -> None:
    path = tmp_path / "labels.csv"
    if is_forced:
        write_file(path, "former")
    with full_disk(1000), pytest.raises(ExportError, match=r"File too large.*free space"):
        write_file(path, "x" * 5000, is_forced=is_forced)
    assert contents(tmp_path) == ["labels.csv"] * is_forced
    assert not is_forced or path.read_text() == "former"


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(path: Path) -> None:
        with new_file(path, is_forced=False) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path / "labels.csv")
    assert contents(tmp_path) == []


def test_a_folder_of_an_earlier_export_is_replaced_as_a_whole_with_force(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    write_folder(path, "first")
    with pytest.raises(ExportError, match=r"already exists: .*--force"):
        write_folder(path, "second")
    write_folder(path, "second", is_forced=True)
    assert contents(path) == [MARKER, "second"]
    assert contents(tmp_path) == ["labels"]


@pytest.mark.parametrize("is_forced", [False, True])
def test_a_folder_that_no_export_made_is_never_replaced(is_forced: bool, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("precious")
    with pytest.raises(ExportError, match="is not an export: choose another path"):
        write_folder(tmp_path, "labels.csv", is_forced=is_forced)
    assert contents(tmp_path) == ["photo.jpg"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    write_folder(tmp_path / "labels", "labels.csv")
    assert contents(tmp_path / "labels") == [MARKER, "labels.csv"]


def test_a_full_disk_leaves_the_former_folder(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    write_folder(path, "former")
    with full_disk(1000), pytest.raises(ExportError, match="File too large"):
        write_folder(path, "new", "x" * 5000, is_forced=True)
    assert contents(path) == [MARKER, "former"]
    assert contents(tmp_path) == ["labels"]


def test_a_folder_that_cannot_be_put_into_place_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    write_folder(path, "former")
    with pytest.raises(ExportError), new_folder(path, is_forced=True) as draft:
        shutil.rmtree(draft)
    assert contents(path) == [MARKER, "former"]
    assert contents(tmp_path) == ["labels"]


def test_a_place_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot be written .*nothing was changed"):
        write_file(tmp_path / "file/labels.csv", "")


def test_a_draft_that_a_killed_export_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / f".export.draft-{os.getpid()}"
    left.mkdir()
    (left / "half").write_text("")
    write_folder(tmp_path / "export", "labels.csv")
    assert contents(tmp_path) == ["export"]
    assert contents(tmp_path / "export") == [MARKER, "labels.csv"]


@pytest.mark.parametrize("name", ["", "."])
def test_the_working_folder_is_not_replaced_even_if_it_is_empty(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="has no name"):
        write_folder(Path(name), "labels.csv")


def test_a_link_to_an_export_is_not_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "export", "first")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "export")
    with pytest.raises(ExportError, match="is a link"):
        write_folder(link, "second", is_forced=True)
    assert contents(tmp_path / "export") == [MARKER, "first"]
    assert contents(tmp_path) == ["export", "link"]
