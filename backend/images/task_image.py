"""Convert images to the form in which annotators see them."""

from __future__ import annotations

import io

from PIL import ExifTags, Image

from backend.base.labeling import TaskImage
from backend.images.decode import open_image, read_rgb

# The formats that browsers show, as Pillow names them. MPO is a JPEG with a second picture
# appended.
MIMES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
MAX_BYTES = 10_000_000  # larger files are converted to JPEG
PNG_MAX_SIDE_PX = 128  # smaller pictures are converted to PNG, which is lossless
JPEG_QUALITY = 90


def task_image(content: bytes, max_side_px: int, max_pixels: int) -> TaskImage:
    """Return an image file as annotators see it: whole, upright, at most `max_side_px` on a side.

    Files that already meet these conditions and that browsers can show are unchanged. Only the
    first frame of an animation is kept, because the model sees only this frame. Raises ImageError.
    """
    with open_image(io.BytesIO(content), max_pixels) as image:
        if len(content) <= MAX_BYTES and _is_shown_as_it_is(image, max_side_px):
            return TaskImage(content, MIMES[image.format or ""])
        shrink = max(1.0, max(image.size) / max_side_px)
        rgb = read_rgb(image, (shrink, shrink))
    rgb.thumbnail((max_side_px, max_side_px))
    return _encode(rgb, "PNG" if max(rgb.size) <= PNG_MAX_SIDE_PX else "JPEG")


def png_image(picture: Image.Image) -> TaskImage:
    """Encode a picture as PNG."""
    return _encode(picture, "PNG")


def _is_shown_as_it_is(image: Image.Image, max_side_px: int) -> bool:
    # Check the size first: a PNG's EXIF may follow its pixels, so reading it decodes the image.
    if image.format not in MIMES or max(image.size) > max_side_px:
        return False
    is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
    return not is_animated and image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def _encode(picture: Image.Image, kind: str) -> TaskImage:
    encoded = io.BytesIO()
    picture.save(encoded, kind, quality=JPEG_QUALITY)
    return TaskImage(encoded.getvalue(), MIMES[kind])
