"""Test how originals travel in tasks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from backend.base.errors import PoolError
from backend.images.pool import Pool, open_pool, true_labels
from tests.unit.images.image_folders import (
    BLUE,
    decode_uri,
    save_image,
)


def test_a_small_original_travels_unchanged(tmp_path: Path) -> None:
    cat = save_image(tmp_path / "images/train/cat/0.jpg")
    dog = save_image(tmp_path / "images/train/dog/really-a-png.jpg")
    Image.new("RGB", (8, 8)).save(dog, "PNG")
    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    uri = {label: pool.data_uri(i) for i, label in true_labels(pool).items()}

    assert decode_uri(uri["cat"]) == ("image/jpeg", cat.read_bytes())
    assert decode_uri(uri["dog"]) == ("image/png", dog.read_bytes())


def test_a_large_original_travels_as_an_upright_jpeg_of_1024_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    save_image(tmp_path / "images/train/cat/heavy.png")
    Image.fromarray(noise).save(tmp_path / "images/train/cat/heavy.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    save_image(tmp_path / "images/train/dog/wide.jpg")
    Image.new("RGB", (2048, 512), BLUE).save(tmp_path / "images/train/dog/wide.jpg", exif=exif)
    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    sizes = {}
    for i, label in true_labels(pool).items():
        mime, content = decode_uri(pool.data_uri(i))
        assert mime == "image/jpeg"
        image = Image.open(io.BytesIO(content))
        assert image.getexif().get(ExifTags.Base.Orientation) is None
        sizes[label] = (image.format, image.size)

    assert sizes == {"cat": ("JPEG", (700, 700)), "dog": ("JPEG", (256, 1024))}


def test_a_missing_original_is_named(pool: Pool, folder: Path) -> None:
    for path in folder.glob("train/*/*.png"):
        path.unlink()

    with pytest.raises(PoolError, match=r"cannot read the image .*train/(cat|dog)/\d+.png"):
        pool.data_uri(pool.image_ids[0])
