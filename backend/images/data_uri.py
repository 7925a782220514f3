"""Encode images as data: URIs for tasks and pages."""

from __future__ import annotations

import base64
import io

from PIL import Image

from backend.images.decode import open_image, read_rgb

# Originals within these limits are sent unchanged, larger ones as a smaller JPEG.
MAX_BYTES = 1_000_000
MAX_SIDE_PX = 1024


def original_uri(content: bytes, max_pixels: int) -> str:
    """Encode the content of an image file. Raises ImageError if it is damaged or too large."""
    with open_image(io.BytesIO(content), max_pixels) as image:
        is_small = len(content) <= MAX_BYTES and max(image.size) <= MAX_SIDE_PX
        if is_small and image.format in ("JPEG", "PNG"):
            return _data_uri(Image.MIME[image.format], content)
        shrink = max(image.size) / MAX_SIDE_PX
        rgb = read_rgb(image, (shrink, shrink))
    rgb.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    jpeg = io.BytesIO()
    rgb.save(jpeg, "JPEG", quality=90)
    return _data_uri("image/jpeg", jpeg.getvalue())


def png_uri(picture: Image.Image) -> str:
    """Encode a picture as PNG."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    return _data_uri("image/png", content.getvalue())


def _data_uri(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
