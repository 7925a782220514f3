"""Test which picture of an image annotators see."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from backend.base.errors import ImageError, PoolError
from backend.images.pool import Pool
from backend.images.task_image import task_image
from tests.unit.images.image_folders import BLUE, RED

MANY = 50_000_000


def encoded(size: tuple[int, int], kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, BLUE).save(content, kind, **options)
    return content.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_what_browsers_show_stays_unchanged(kind: str) -> None:
    content = encoded((1600, 8), kind)
    image = task_image(content, 1600, MANY)
    assert (image.content, image.mime) == (content, f"image/{kind.lower()}")


@pytest.mark.parametrize(
    ("content", "mime", "size"),
    [
        (encoded((2048, 512), "JPEG"), "image/jpeg", (1600, 400)),
        (encoded((512, 256), "JPEG", exif=turned()), "image/jpeg", (256, 512)),
        (encoded((8, 4), "JPEG", exif=turned()), "image/png", (4, 8)),
        (encoded((400, 300), "BMP"), "image/jpeg", (400, 300)),
        (encoded((32, 32), "TIFF"), "image/png", (32, 32)),
    ],
    ids=["large", "turned", "small and turned", "BMP", "small TIFF"],
)
def test_other_images_are_shrunk_turned_upright_or_converted(
    content: bytes, mime: str, size: tuple[int, int]
) -> None:
    image = task_image(content, 1600, MANY)
    opened = Image.open(io.BytesIO(image.content))
    assert (image.mime, Image.MIME[opened.format or ""], opened.size) == (mime, mime, size)
    assert opened.getexif().get(ExifTags.Base.Orientation) is None


def test_only_the_first_frame_of_an_animation_is_shown() -> None:
    content = io.BytesIO()
    first, second = (Image.new("RGB", (8, 8), color) for color in (RED, BLUE))
    first.save(content, "GIF", save_all=True, append_images=[second])

    image = task_image(content.getvalue(), 1600, MANY)

    shown = Image.open(io.BytesIO(image.content))
    assert image.mime == "image/png"
    assert shown.getpixel((0, 0)) == RED


def test_a_damaged_file_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="damaged"):
        task_image(b"no image", 1600, MANY)


def test_a_missing_original_is_named(pool: Pool, folder: Path) -> None:
    for path in folder.glob("train/*/*.png"):
        path.unlink()

    with pytest.raises(PoolError, match=r"cannot read image .* restore it"):
        pool.task_image(pool.image_ids[0], 1600)
