"""Test the cache when files change, processes die and disks are full."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.base.errors import PoolError
from backend.images.digest import digest
from backend.images.pool import Pool, open_pool, true_labels
from tests.patience import PATIENCE_S
from tests.unit.images.image_folders import save_image


def test_changed_files_are_decoded_again_and_the_outdated_cache_is_deleted(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    cats = digest("train/cat/0.png")
    stat = (folder / "train/cat/0.png").stat()
    save_image(folder / "train/cat/0.png", (255, 0, 99))
    os.utime(folder / "train/cat/0.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))

    changed = open_pool(str(folder), tmp_path, seed=0)

    assert changed.images[changed.positions([cats])[0], 0, 0].tolist() == [255, 0, 99]
    assert not pool.folder.exists()
    assert pool.images[pool.positions([cats])[0], 0, 0].tolist() == [255, 0, 0]


CHILD = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from backend.images.pool import open_pool
if sys.argv[3] == "killed":  # 42 images were measured, 40 of train decoded: this is test's first
    opened, original = [], Image.open
    def open_until_killed(path, **options):
        opened.append(path)
        if len(opened) == 83:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, **options)
    Image.open = open_until_killed
print(*open_pool(sys.argv[1], Path(sys.argv[2]), seed=0).image_ids)
"""


@contextmanager
def child(folder: Path, data_dir: Path, fate: str = "") -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(data_dir), fate],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # does nothing once the process has ended


def test_a_killed_process_leaves_no_draft_that_disturbs_the_next_one(
    folder: Path, tmp_path: Path
) -> None:
    with child(folder, tmp_path, "killed") as killed:
        killed.communicate(timeout=PATIENCE_S)
    assert killed.returncode == -9
    assert list(tmp_path.glob("pools/*.draft/train.npy"))

    pool = open_pool(str(folder), tmp_path, seed=0)

    assert len(pool.images) == 36
    assert not list(tmp_path.glob("pools/*.draft"))


def test_two_processes_that_open_at_once_get_the_same_pool(folder: Path, tmp_path: Path) -> None:
    with child(folder, tmp_path) as first, child(folder, tmp_path) as second:
        printed = [process.communicate(timeout=PATIENCE_S)[0] for process in (first, second)]

    assert printed[0].split() == printed[1].split()
    assert printed[0].split() == list(open_pool(str(folder), tmp_path, seed=0).image_ids)


def test_a_full_disk_is_a_clear_error_and_leaves_no_partial_cache(
    folder: Path, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # the images need 7,680 bytes
    try:
        with pytest.raises(PoolError, match=r"DATA_DIR=.* has space left"):
            open_pool(str(folder), tmp_path, seed=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [path.suffix for path in (tmp_path / "pools").iterdir()] == [".lock"]
    assert len(open_pool(str(folder), tmp_path, seed=0).images) == 36


@pytest.mark.parametrize("file", ["train.npy", "meta.json", "index.json", "test_labels.npy"])
def test_a_damaged_cache_is_named(pool: Pool, folder: Path, tmp_path: Path, file: str) -> None:
    whole = (pool.folder / file).read_bytes()
    (pool.folder / file).write_bytes(whole[: len(whole) // 2])

    with pytest.raises(PoolError, match=r"the cache .*folder-.* is damaged .* delete this folder"):
        open_pool(str(folder), tmp_path, seed=0)


def test_reading_labels_from_a_deleted_cache_is_a_clear_error(pool: Pool) -> None:
    (pool.folder / "train_labels.npy").unlink()

    with pytest.raises(PoolError, match="start again"):
        true_labels(pool)
