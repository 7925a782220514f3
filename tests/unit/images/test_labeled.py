"""Test the pixels of labeled images that are kept for good."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from backend.base.errors import ImageError, PoolError
from backend.images.labeled import LabeledFolder


@pytest.fixture
def labeled(tmp_path: Path) -> LabeledFolder:
    return LabeledFolder(tmp_path / "labeled", 10_000_000)


def file_of(picture: Image.Image, exif: Image.Exif | None = None) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif or Image.Exif())
    file.seek(0)
    return file


def test_a_small_image_keeps_every_pixel(labeled: LabeledFolder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 128, 3), dtype=np.uint8)
    labeled.keep("a", file_of(Image.fromarray(noise)))
    assert labeled.image_ids() == {"a"}
    with labeled.open("a") as file:
        assert np.array_equal(np.asarray(Image.open(file)), noise)


def test_a_large_image_becomes_a_jpeg_of_512_px_that_shows_all_of_it(
    labeled: LabeledFolder,
) -> None:
    halves = Image.new("RGB", (2048, 512), "red")
    halves.paste((0, 0, 255), (1024, 0, 2048, 512))
    labeled.keep("a", file_of(halves))
    with labeled.open("a") as file, Image.open(file) as image:
        assert (image.format, image.size) == ("JPEG", (512, 128))
        assert np.abs(np.array(image.getpixel((5, 60))) - (255, 0, 0)).max() < 5
        assert np.abs(np.array(image.getpixel((506, 60))) - (0, 0, 255)).max() < 5


def test_an_image_is_kept_upright(labeled: LabeledFolder) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    labeled.keep("a", file_of(Image.new("RGB", (40, 20)), exif))
    with labeled.open("a") as file, Image.open(file) as image:
        assert image.size == (20, 40)


def test_a_damaged_image_leaves_no_file(labeled: LabeledFolder) -> None:
    with pytest.raises(ImageError, match="damaged"):
        labeled.keep("a", io.BytesIO(b"text"))
    assert labeled.image_ids() == set()
    with pytest.raises(FileNotFoundError):
        labeled.open("a")


def test_an_image_that_cannot_be_stored_is_an_error_that_says_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "labeled").touch()
    labeled = LabeledFolder(tmp_path / "labeled", 10_000_000)
    with pytest.raises(PoolError, match=r"cannot be kept in .*labeled .*check that the folder is"):
        labeled.keep("a", file_of(Image.new("RGB", (8, 8))))
