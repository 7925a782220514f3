"""Encode images as data: URIs for tasks and pages."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from backend.base.errors import ImageError, PoolError
from backend.images.decode import open_image, read_rgb

# Originals within these limits are sent unchanged, larger ones as a smaller JPEG.
MAX_BYTES = 1_000_000
MAX_SIDE_PX = 1024


def original_uri(path: Path, max_pixels: int) -> str:
    """Encode an image file. Raises PoolError if it cannot be read or has too many pixels."""
    try:
        with open_image(path, max_pixels) as image:
            is_small = path.stat().st_size <= MAX_BYTES and max(image.size) <= MAX_SIDE_PX
            if is_small and image.format in ("JPEG", "PNG"):
                return _data_uri(Image.MIME[image.format], path.read_bytes())
            shrink = max(image.size) / MAX_SIDE_PX
            rgb = read_rgb(image, (shrink, shrink))
    except (ImageError, OSError) as error:
        raise PoolError(f"cannot read the image {str(path)!r} ({error}): restore it") from error
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
