"""Fit images into the squares that the model sees.

The pool's images and the images that /predict fetches are framed by the same function, so the model
sees an image in the same way wherever the image comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from backend.images.decode import read_rgb

FramingName = Literal["whole", "middle"]
# The side of the squares stored for "middle", for every image size: 1.5 times the default of 64.
MIDDLE_PX = 96
# A model sees images of up to 64 px at a size of 64 px, and larger images at 128 px.
SMALL_PX, LARGE_PX = 64, 128


@dataclass(frozen=True)
class View:
    """The size and the framing in which a model sees images."""

    image_size: int  # the side of the squares that enter the network
    framing: FramingName = "whole"

    @property
    def side_px(self) -> int:
        """Return the side of the stored squares; the network resizes them if necessary."""
        return MIDDLE_PX if self.framing == "middle" else self.image_size


def choose_image_size(side_px: int) -> int:
    """Return the image size for a pool whose images are at most `side_px` wide and high."""
    return SMALL_PX if side_px <= SMALL_PX else LARGE_PX


def frame(image: Image.Image, framing: FramingName, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode an image that open_image opened; return it upright, filling (width, height).

    "whole" shows the whole image and mirrors it at its edges. "middle" shows only the middle, for
    versions that were made before framings were recorded.
    """
    return _whole(image, size) if framing == "whole" else _middle(image, size)


def _whole(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    shrink = max(image.size) / min(size)
    rgb = read_rgb(image, (shrink, shrink))
    scale = min(size[0] / rgb.width, size[1] / rgb.height)
    width, height = max(1, round(scale * rgb.width)), max(1, round(scale * rgb.height))
    # This filter enlarges images in the same way as torch enlarges small squares.
    resized = np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    right, bottom = size[0] - width - left, size[1] - height - top
    return np.pad(resized, ((top, bottom), (left, right), (0, 0)), "symmetric")


def _middle(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    shrink = min(image.width / size[0], image.height / size[1])
    rgb = read_rgb(image, (shrink, shrink))
    return np.asarray(rgb if rgb.size == size else ImageOps.fit(rgb, size))
