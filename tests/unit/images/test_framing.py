"""Test which pixels of an image the model sees."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from backend.images.decode import open_image
from backend.images.framing import FramingName, View, frame

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def framed(
    picture: Image.Image, framing: FramingName, side: int = 8, exif: Image.Exif | None = None
) -> NDArray[np.uint8]:
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif or Image.Exif())
    with open_image(file, 1_000_000) as image:
        return frame(image, framing, (side, side))


def panorama() -> Image.Image:
    """Return 32 x 8 pixels: red, then twice green, then blue, each a quarter."""
    picture = Image.new("RGB", (32, 8), GREEN)
    picture.paste(RED, (0, 0, 8, 8))
    picture.paste(BLUE, (24, 0, 32, 8))
    return picture


def test_the_whole_of_a_panorama_is_seen_and_mirrored_above_and_below() -> None:
    pixels = framed(panorama(), "whole")
    assert pixels.shape == (8, 8, 3)
    assert pixels[:, 0].tolist() == [[255, 0, 0]] * 8
    assert pixels[:, 7].tolist() == [[0, 0, 255]] * 8
    assert pixels[:, 3:5].tolist() == [[[0, 255, 0]] * 2] * 8


def test_the_edges_of_a_tall_image_are_mirrored_beside_it() -> None:
    tall = Image.new("RGB", (4, 8), RED)
    tall.paste(BLUE, (0, 0, 1, 8))
    row = framed(tall, "whole")[3]
    assert [color.tolist().index(255) for color in row] == [0, 2, 2, 0, 0, 0, 0, 0]


def test_the_middle_of_a_panorama_has_neither_end() -> None:
    assert (framed(panorama(), "middle") == GREEN).all()


@pytest.mark.parametrize("framing", ["whole", "middle"])
def test_a_square_of_the_right_size_keeps_every_pixel(framing: FramingName) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(framed(Image.fromarray(noise), framing), noise)


@pytest.mark.parametrize("framing", ["whole", "middle"])
def test_a_camera_held_sideways_gives_the_same_as_an_upright_image(framing: FramingName) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn clockwise
    lying = panorama().transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(framed(lying, framing, exif=exif), framed(panorama(), framing))


def test_one_pixel_by_many_is_still_an_image() -> None:
    assert (framed(Image.new("RGB", (400, 1), RED), "whole") == RED).all()


def test_only_whole_images_follow_the_models_image_size() -> None:
    assert [View(128).side_px, View(128, "middle").side_px] == [128, 96]
