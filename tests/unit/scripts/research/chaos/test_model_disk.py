"""Fill and free a separate disk."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from scripts.research.chaos import model_disk as disks
from scripts.research.chaos.model_disk import fill_disk, free_disk, model_disk

# Appends a megabyte to a file for each line of its input, and prints the error number or 0.
PROGRAM = """
import sys
for _ in sys.stdin:
    try:
        with open(sys.argv[1], "ab") as file:
            file.write(bytes(1_000_000))
        print(0, flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


class Writer:
    """A process that writes to the disk."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", PROGRAM, str(path)]
        self._program = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
        self.process = psutil.Process(self._program.pid)

    def write(self) -> int:
        """Write a megabyte; return the error number, or 0."""
        assert self._program.stdin
        assert self._program.stdout
        self._program.stdin.write("\n")
        self._program.stdin.flush()
        return int(self._program.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self._program.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    with model_disk() as path:
        yield path


@pytest.fixture
def writer(folder: Path) -> Iterator[Writer]:
    own = Writer(folder / "file")
    yield own
    own.end()


def test_nothing_can_be_written_while_the_disk_is_full(folder: Path, writer: Writer) -> None:
    assert writer.write() == 0
    fill_disk(folder, [writer.process])
    assert writer.write() in (errno.ENOSPC, errno.EFBIG)  # EFBIG if nothing may be mounted here
    free_disk(folder, [writer.process])
    assert writer.write() == 0


def test_without_a_separate_disk_a_process_cannot_write_long_files(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "file")
    fill_disk(tmp_path, [writer.process])
    assert writer.write() == errno.EFBIG
    free_disk(tmp_path, [writer.process])
    assert writer.write() == 0
    writer.end()


def test_the_disk_is_gone_afterwards_even_if_it_was_full() -> None:
    with model_disk() as folder:
        fill_disk(folder, [])
    assert not folder.exists()
    assert str(folder) not in Path("/proc/mounts").read_text()


def test_an_ordinary_folder_is_used_if_nothing_may_be_mounted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disks, "SIZE", "no size")
    with model_disk() as folder:
        assert not folder.is_mount()
        (folder / "file").write_text("content")
    assert not folder.exists()
