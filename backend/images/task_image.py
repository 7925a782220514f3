"""Make the picture of an image that annotators see."""

from __future__ import annotations

import io

from PIL import ExifTags, Image

from backend.base.labeling import TaskImage
from backend.images.decode import open_image, read_rgb

# What browsers show, by Pillow's name. MPO is the JPEG of cameras that append a second picture.
MIMES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
MAX_BYTES = 10_000_000  # heavier files become a JPEG
PNG_MAX_SIDE_PX = 128  # smaller pictures become PNG, which loses nothing
JPEG_QUALITY = 90


def task_image(content: bytes, max_side_px: int, max_pixels: int) -> TaskImage:
    """Return an image file as annotators see it: whole, upright, at most `max_side_px` on a side.

    A file that is so already and that browsers can show stays unchanged. Of an animation, only the
    first frame is kept, because the model sees no other. Raises ImageError.
    """
    with open_image(io.BytesIO(content), max_pixels) as image:
        if len(content) <= MAX_BYTES and _is_shown_as_it_is(image, max_side_px):
            return TaskImage(content, MIMES[image.format or ""])
        shrink = max(1.0, max(image.size) / max_side_px)
        rgb = read_rgb(image, (shrink, shrink))
    rgb.thumbnail((max_side_px, max_side_px))
    return _encode(rgb, "PNG" if max(rgb.size) <= PNG_MAX_SIDE_PX else "JPEG")


def png_image(picture: Image.Image) -> TaskImage:
    """Return a picture as PNG."""
    return _encode(picture, "PNG")


def _is_shown_as_it_is(image: Image.Image, max_side_px: int) -> bool:
    is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
    is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    return (
        image.format in MIMES and max(image.size) <= max_side_px and is_upright and not is_animated
    )


def _encode(picture: Image.Image, kind: str) -> TaskImage:
    encoded = io.BytesIO()
    picture.save(encoded, kind, quality=JPEG_QUALITY)
    return TaskImage(encoded.getvalue(), MIMES[kind])
