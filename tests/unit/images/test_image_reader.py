"""Read images elsewhere, with the pixels that the pool itself decodes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backend.base.arrays import Images
from backend.base.errors import PoolError
from backend.images.framing import View
from backend.images.image_reader import ImageReader, find_locations, find_reader
from backend.images.pool import Pool, open_pool, rescan
from backend.images.sources import MissingSource
from tests.unit.images.buckets import fill_bucket
from tests.unit.images.image_folders import make_folder, save_image


def elsewhere(pool: Pool, view: View | None = None) -> ImageReader:
    """Return the pool's reader as another process receives it."""
    reader = find_reader(pool, view or View(pool.image_size), ())
    assert reader is not None
    sent: ImageReader = pickle.loads(pickle.dumps(reader))
    sent.check()
    return sent


def read(reader: ImageReader, pool: Pool, image_ids: tuple[str, ...]) -> list[NDArray[np.uint8]]:
    locations = find_locations(pool, image_ids)
    return [reader.read(location) for location in locations if location is not None]


def check_equal(pool: Pool, image_ids: tuple[str, ...], images: Images) -> None:
    assert image_ids
    assert np.array_equal(read(elsewhere(pool), pool, image_ids), images[:])


def test_every_split_of_a_data_set_is_read(tmp_path: Path) -> None:
    pool = open_pool("digits", tmp_path, seed=0)
    check_equal(pool, pool.image_ids, pool.images)
    check_equal(pool, pool.validation.image_ids, pool.validation.images)
    check_equal(pool, pool.test.image_ids, pool.test.images)


def test_images_of_a_folder_are_decoded_in_their_own_size_or_framed(tmp_path: Path) -> None:
    small = open_pool(str(make_folder(tmp_path / "small")), tmp_path, seed=0)
    check_equal(small, small.image_ids, small.images)
    rng = np.random.default_rng(0)
    (tmp_path / "large").mkdir()
    for number in range(12):
        pixels = rng.integers(256, size=(90 + number, 130, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"large/{number}.png")
    large = open_pool(str(tmp_path / "large"), tmp_path, seed=0, classes=("a", "b"))
    check_equal(large, large.image_ids, large.images)
    middle = View(large.image_size, "middle")
    expected = large.images_of(large.image_ids, middle)[:]
    assert np.array_equal(read(elsewhere(large, middle), large, large.image_ids), expected)


def test_images_of_a_list_and_of_a_bucket_are_read(tmp_path: Path, bucket: str) -> None:
    folder = make_folder(tmp_path / "images")
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*.png")}
    (tmp_path / "images/list.csv").write_text("\n".join(["image", *files]))
    listed = open_pool(str(folder / "list.csv"), tmp_path, seed=0, classes=("a", "b"))
    check_equal(listed, listed.image_ids, listed.images)
    fill_bucket(bucket, {name: path.read_bytes() for name, path in files.items()})
    in_bucket = open_pool(f"s3://{bucket}/", tmp_path, seed=0)
    check_equal(in_bucket, in_bucket.image_ids, in_bucket.images)


def test_an_image_that_the_source_has_lost_has_no_location(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images")
    save_image(folder / "new.png", (9, 9, 9))
    pool = open_pool(str(folder), tmp_path, seed=0)
    [lost] = [i for i in pool.image_ids if find_locations(pool, [i]) == ["new.png"]]
    (folder / "new.png").unlink()
    pool, _ = rescan(pool, 0, must_list=True, budget_s=0)
    assert find_locations(pool, [lost]) == [None]


def test_images_that_only_this_process_can_read_have_no_reader(
    folder: Path, tmp_path: Path
) -> None:
    pool = open_pool(str(folder), tmp_path, seed=0)
    missing = open_pool(
        "gone",
        tmp_path,
        seed=0,
        source=MissingSource(pool.name, "no disk"),
        index=next(tmp_path.rglob("index-0.parquet")),
        rescan=False,
    )
    assert find_reader(missing, View(32), ()) is None


def test_a_machine_that_lacks_the_images_says_which(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images")
    of_folder = find_reader(open_pool(str(folder), tmp_path, seed=0), View(32), ())
    of_digits = find_reader(open_pool("digits", tmp_path, seed=0), View(32), ())
    assert of_folder
    assert of_digits
    folder.rename(tmp_path / "moved")
    (tmp_path / "pools").rename(tmp_path / "moved pools")
    with pytest.raises(PoolError, match=f"POOL={folder}: no such folder or list"):
        of_folder.check()
    with pytest.raises(PoolError, match="share DATA_DIR at the same path"):
        of_digits.check()
