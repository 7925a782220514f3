"""Decode an image file of any size as upright RGB, using little memory.

A file of a few kilobytes may contain 50 million pixels. Large images are therefore decoded one at a
time, kept in their original mode (one byte per pixel for black and white), and shrunk and converted
tile by tile.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from backend.base.errors import ImageError

# Larger images are decoded one at a time. Photos of 12 megapixels are not affected, because a JPEG
# is decoded at a fraction of its size.
LARGE_PX = 4_000_000
TILE_PX = 1024
# Scaling a JPEG during decoding and averaging blocks both leave an image at least this many times
# larger than wanted, for the final, finer resizing. Pillow's thumbnail() uses the same value. With
# a larger value, an image of 50 megapixels would be copied at full size for a task.
GAP = 2
# These decoders keep several copies of the image in memory, so fewer pixels are allowed.
COPIES = {"WEBP": 2}

# malloc returns blocks of this size to the system immediately. With Pillow's default blocks of
# 16 MB, every thread would hold on to as much memory as a whole image needs.
BLOCK_BYTES = 64 * 1024**2

_one_at_a_time = threading.Lock()


@contextmanager
def open_image(
    file: Path | IO[bytes], max_pixels: int, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    """Open an image without decoding it. Raises ImageError if it has too many pixels.

    Any exception that Pillow raises for a damaged file, here or inside the `with` block, becomes an
    ImageError.
    """
    # Pillow warns about images larger than half its limit, but the warnings would only clutter the
    # log.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        with Image.open(file, formats=formats) as image:
            limit = max_pixels // COPIES.get(image.format or "", 1)
            if image.width * image.height > limit:
                raise ImageError(
                    f"the image has {image.width:,} x {image.height:,} pixels, more than {limit:,} "
                    "(see MAX_IMAGE_PIXELS)"
                )
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(
            f"the image has more than {max_pixels:,} pixels (see MAX_IMAGE_PIXELS)"
        ) from None
    except OSError as error:
        if error.errno is not None:  # the file cannot be read, but may be undamaged
            raise
        raise _damaged(error) from None
    except Exception as error:  # Pillow's decoders may raise any exception on damaged bytes
        raise _damaged(error) from None


def read_rgb(image: Image.Image, shrink: tuple[float, float]) -> Image.Image:
    """Decode an image as a browser shows it: rotated by its EXIF data, on a white background.

    `shrink` contains the factors by which the caller will reduce the width and the height. A large
    image is returned partly reduced, but still large enough for the caller. `image` is closed.
    """
    (across, down), (width, height) = shrink, image.size
    n_pixels = width * height
    wanted = max(1, round(GAP * width / across)), max(1, round(GAP * height / down))
    if drafted := image.draft("RGB", wanted):  # a large JPEG is decoded at a fraction of its size
        scale = round(width / drafted[1][2])
        across, down = across / scale, down / scale
        if not image.info.get("progressive"):  # the progressive decoder needs all pixels
            n_pixels = image.width * image.height
    with _one_at_a_time if n_pixels > LARGE_PX else nullcontext():
        try:
            Image.core.set_block_size(BLOCK_BYTES)  # type: ignore[attr-defined]  # documented
            image.load()
            factor = max(1, int(across / GAP)), max(1, int(down / GAP))
            small = _reduced(image, factor)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        finally:
            image.close()  # frees the memory before the next image is decoded
    small.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(small)


def _reduced(image: Image.Image, factor: tuple[int, int]) -> Image.Image:
    """Return an RGB image of 1/factor the size, as if the whole image were converted first."""
    across, down = factor
    small = Image.new("RGB", (-(-image.width // across), -(-image.height // down)))
    # Each tile consists of whole blocks.
    width, height = max(1, TILE_PX // across) * across, max(1, TILE_PX // down) * down
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            right, bottom = min(left + width, image.width), min(top + height, image.height)
            tile = _rgb_on_white(image.crop((left, top, right, bottom)))
            small.paste(tile.reduce(factor), (left // across, top // down))
    return small


def _rgb_on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # 16-bit gray
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _damaged(error: Exception) -> ImageError:
    return ImageError(f"the image is damaged or has an unknown format ({type(error).__name__})")
