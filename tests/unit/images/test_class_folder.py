"""Test class folders of a few images that can be checked by hand."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from backend.base.errors import PoolError
from backend.images.pool import open_pool, true_labels
from tests.unit.images.image_folders import (
    BLUE,
    GREEN,
    RED,
    class_by_color,
    save_image,
)


def test_suffixes_in_any_case_count_but_hidden_and_other_files_do_not(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.Jpeg", "c.PNG", "._a.jpg", "notes.gif"):
        save_image(tmp_path / "images/train/cat" / name)
    save_image(tmp_path / "images/train/dog/a.png")
    save_image(tmp_path / "images/train/.thumbnails/a.png")
    (tmp_path / "images/train/dog/lost.png").symlink_to("nowhere.png")

    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    assert Counter(true_labels(pool).values()) == {"cat": 3, "dog": 1}
    assert pool.classes == ("cat", "dog")


def test_images_of_mixed_sizes_are_cropped_to_their_middle(tmp_path: Path) -> None:
    stripes = Image.new("RGB", (300, 100), RED)
    stripes.paste(GREEN, (90, 0, 210, 100))
    (tmp_path / "images/train/cat").mkdir(parents=True)
    stripes.save(tmp_path / "images/train/cat/wide.png")
    save_image(tmp_path / "images/train/dog/small.png", BLUE, (10, 10))

    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    assert pool.images.shape == (2, 96, 96, 3)
    cat = pool.images[list(true_labels(pool).values()).index("cat")]
    assert (cat == GREEN).all()


def test_images_of_one_size_keep_it_unless_it_is_large(tmp_path: Path) -> None:
    for size in ((20, 10), (300, 300)):
        for name in ("cat", "dog"):
            save_image(tmp_path / f"{size}/train/{name}/0.png", size=size)

    assert open_pool(f"{tmp_path}/(20, 10)", tmp_path, seed=0).images.shape == (2, 10, 20, 3)
    assert open_pool(f"{tmp_path}/(300, 300)", tmp_path, seed=0).images.shape == (2, 96, 96, 3)


def test_an_image_is_turned_upright_by_its_exif(tmp_path: Path) -> None:
    lying = Image.new("RGB", (20, 10), RED)
    lying.paste(BLUE, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn clockwise: left becomes top
    for name in ("cat", "dog"):
        (tmp_path / "images/train" / name).mkdir(parents=True)
        lying.save(tmp_path / f"images/train/{name}/0.png", exif=exif)

    images = open_pool(str(tmp_path / "images"), tmp_path, seed=0).images

    assert images.shape == (2, 20, 10, 3)
    assert (images[:, :10] == BLUE).all()
    assert (images[:, 10:] == RED).all()


def test_transparent_and_16_bit_images_look_as_in_a_browser(tmp_path: Path) -> None:
    for name in ("glass", "grey"):
        (tmp_path / "images/train" / name).mkdir(parents=True)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "images/train/glass/0.png")
    grey = np.full((8, 8), 0x80FF, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "images/train/grey/0.png")

    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    row = dict(zip(true_labels(pool).values(), pool.images, strict=True))
    assert (row["glass"] == 255).all()
    assert (row["grey"] == 128).all()


def test_broken_images_are_left_out_and_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (folder / "train/cat/3.png").read_bytes()
    (folder / "train/cat/3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train/dog/4.png").write_text("not an image")
    (folder / "test/cat/0.png").write_bytes(b"")

    with caplog.at_level(logging.WARNING):
        pool = open_pool(str(folder), tmp_path, seed=0)

    names = ["train/cat/3.png", "train/dog/4.png", "test/cat/0.png"]
    assert all(name in caplog.text for name in names)
    assert set(json.loads((pool.folder / "meta.json").read_text())["skipped"]) == set(names)
    assert len(pool.images) + len(pool.validation.images) == 38
    assert len(pool.test.images) == 1
    for row, label in zip(pool.images, true_labels(pool).values(), strict=True):
        assert class_by_color(row) == label


def test_decoding_a_folder_reports_progress(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    open_pool(str(folder), tmp_path, seed=0, progress=lambda *now: calls.append(now))
    ends = {phase: (done, total) for phase, done, total in calls}
    assert ends == {
        "measuring images": (42, 42),
        "decoding train images": (40, 40),
        "decoding test images": (2, 2),
    }
    assert len(calls) == 84


def test_a_folder_without_test_images_has_an_empty_test_split(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save_image(tmp_path / f"images/train/{name}/0.png")

    test = open_pool(str(tmp_path / "images"), tmp_path, seed=0).test

    assert test.images.shape == (0, 8, 8, 3)
    assert test.labels.shape == (0,)


def test_test_classes_without_train_images_are_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_image(folder / "test/zebra/0.png")

    pool = open_pool(str(folder), tmp_path, seed=0)

    assert pool.classes == ("cat", "dog")
    assert len(pool.test.images) == 2
    assert "zebra" in caplog.text


@pytest.mark.parametrize("paths", [[], ["train/cat/0.png"], ["cat/0.png", "dog/0.png"]])
def test_another_layout_is_an_error_that_explains_the_expected_one(
    tmp_path: Path, paths: list[str]
) -> None:
    (tmp_path / "images/train/empty").mkdir(parents=True)
    for path in paths:
        save_image(tmp_path / "images" / path)

    with pytest.raises(PoolError, match=r"must contain train/<class>/.* two or more classes"):
        open_pool(str(tmp_path / "images"), tmp_path, seed=0)


def test_a_folder_with_one_readable_class_is_an_error_that_says_so(tmp_path: Path) -> None:
    save_image(tmp_path / "images/train/cat/0.png")
    save_image(tmp_path / "images/train/dog/0.png").write_text("not an image")

    with pytest.raises(PoolError, match=r"classes with readable images: \['cat'\]"):
        open_pool(str(tmp_path / "images"), tmp_path, seed=0)
