"""Frame images inside a network as Pillow does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.images.framing import View
from backend.results.framing_module import Framing
from backend.results.onnx_export import example_images
from tests.unit.results.exported_models import framed

# Height and width: as large as the square, larger, smaller, and far from square.
SIZES = (
    *((64, 64), (96, 96), (32, 32), (1, 1), (48, 90), (90, 48), (100, 100), (127, 128)),
    *((129, 255), (375, 500), (768, 1024), (500, 333), (7, 300), (3, 200), (200, 1000)),
)
TALL_SIZES = ((300, 7), (333, 65), (1000, 90))


@pytest.mark.parametrize("image_size", [48, 64, 128])
def test_whole_images_are_framed_exactly_as_by_pillow(image_size: int) -> None:
    view = View(image_size)
    for images in example_images(SIZES, 2):
        found = Framing(view)(torch.from_numpy(images)).numpy()
        np.testing.assert_array_equal(found, framed(images, view))


def test_middle_squares_are_framed_as_by_pillow() -> None:
    view = View(64, "middle")
    for images in example_images(SIZES, 2):
        difference = np.abs(Framing(view)(torch.from_numpy(images)).numpy() - framed(images, view))
        assert difference.max() <= 2  # of 255
        assert (difference > 0).mean() <= 0.01


@pytest.mark.parametrize(("view", "most"), [(View(64), 1), (View(64, "middle"), 8)])
def test_very_tall_images_are_framed_almost_as_by_pillow(view: View, most: int) -> None:
    for images in example_images(TALL_SIZES, 2):
        difference = np.abs(Framing(view)(torch.from_numpy(images)).numpy() - framed(images, view))
        assert difference.max() <= most
        assert difference.mean() <= 0.3


def test_a_narrow_image_is_mirrored_until_the_square_is_full() -> None:
    image = np.zeros((8, 2, 3), np.uint8)
    image[0, 0] = 255
    square = Framing(View(8))(torch.from_numpy(image)[None])[0, :, :, 0]
    # Columns 3 and 4 show the image; on both sides, it is mirrored until the square is full.
    assert square[0].tolist() == [0, 0, 255, 255, 0, 0, 255, 255]
    assert square[1:].sum() == 0


def test_all_images_of_a_batch_are_framed() -> None:
    one, two = np.full((1, 20, 30, 3), 7, np.uint8), np.full((1, 20, 30, 3), 200, np.uint8)
    squares = Framing(View(16))(torch.from_numpy(np.concatenate([one, two])))
    assert (squares[0] == 7).all()
    assert (squares[1] == 200).all()
