"""Test the cache of arrays when processes die and disks are full."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.base.errors import PoolError
from backend.images.known_labels import true_labels
from backend.images.pool import Pool, open_pool
from backend.images.pool_cache import open_cache, write_split
from tests.patience import PATIENCE_S


@pytest.fixture
def digits(tmp_path: Path) -> Pool:
    return open_pool("digits", tmp_path, seed=0)


def write(draft: Path) -> None:
    write_split(draft, "train", np.zeros((10, 64, 64, 3), np.uint8), range(10))


CHILD = """
import os, signal, sys, time
from pathlib import Path
from backend.images.pool_cache import open_cache
from tests.unit.images.test_pool_cache import write
def write_or_die(draft):
    with (Path(sys.argv[1]) / "written").open("a") as log:
        log.write("once ")
    write(draft)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
print(open_cache(Path(sys.argv[1]), "digits", "all", write_or_die))
"""


def child(data_dir: Path, fate: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(data_dir), fate],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_leaves_no_draft_that_disturbs_the_next_one(tmp_path: Path) -> None:
    with child(tmp_path, "killed") as killed:
        killed.communicate(timeout=PATIENCE_S)
    assert killed.returncode == -9
    assert list(tmp_path.glob("pools/*.draft/train.npy"))

    cache = open_cache(tmp_path, "digits", "all", write)

    assert np.load(cache / "train.npy").shape == (10, 64, 64, 3)
    assert not list(tmp_path.glob("pools/*.draft"))


def test_of_two_processes_that_open_at_once_only_one_fills_the_cache(tmp_path: Path) -> None:
    with child(tmp_path, "") as first, child(tmp_path, "") as second:
        printed = {process.communicate(timeout=PATIENCE_S)[0] for process in (first, second)}

    assert len(printed) == 1
    assert (tmp_path / "written").read_text() == "once "


def test_a_full_disk_leaves_no_partial_cache(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the images need 122,880 bytes
    try:
        with pytest.raises(OSError, match=r"requested and"):
            open_cache(tmp_path, "digits", "all", write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [path.suffix for path in (tmp_path / "pools").iterdir()] == [".lock"]


@pytest.mark.parametrize("file", ["train.npy", "meta.json", "index.json", "test_labels.npy"])
def test_a_damaged_cache_is_named(digits: Pool, tmp_path: Path, file: str) -> None:
    whole = (digits.folder / file).read_bytes()
    (digits.folder / file).write_bytes(whole[: len(whole) // 2])

    with pytest.raises(PoolError, match=r"the cache .*digits-.* is damaged .* delete this folder"):
        open_pool("digits", tmp_path, seed=0)


def test_reading_labels_from_a_deleted_cache_is_a_clear_error(digits: Pool) -> None:
    (digits.folder / "train_labels.npy").unlink()

    with pytest.raises(PoolError, match="start again"):
        true_labels(digits)
