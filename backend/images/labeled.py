"""Keep the pixels of labeled images permanently, so that labels outlive the source's files.

This is not a cache: once the source has lost an image, the file stored here is the only one left.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from backend.base.errors import PoolError
from backend.images.decode import open_image, read_rgb

MAX_SIDE_PX = 512
PNG_MAX_SIDE_PX = 128  # larger images are stored as JPEG
JPEG_QUALITY = 95


class LabeledFolder:
    """A project's folder of labeled images, in files named after the image ids."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path, self.max_pixels = path, max_pixels

    def image_ids(self) -> set[str]:
        """Return the ids of the stored images."""
        if not self.path.exists():
            return set()
        with os.scandir(self.path) as entries:
            return {e.name.partition(".")[0] for e in entries if e.name.endswith((".png", ".jpg"))}

    def open(self, image_id: str) -> BinaryIO:
        """Open a stored image. Raises FileNotFoundError."""
        path = self.path / f"{image_id}.png"
        return (path if path.exists() else path.with_suffix(".jpg")).open("rb")

    def keep(self, image_id: str, original: BinaryIO) -> None:
        """Store the whole image, upright, at most MAX_SIDE_PX wide and high.

        Raises ImageError or OSError if the image cannot be read, and PoolError if it cannot be
        stored.
        """
        # A remote file is read once and as a whole, because decoders jump back and forth.
        with open_image(BytesIO(original.read()), self.max_pixels) as image:
            shrink = max(1.0, max(image.size) / MAX_SIDE_PX)
            rgb = read_rgb(image, (shrink, shrink))
        rgb.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BILINEAR)
        suffix = ".png" if max(rgb.size) <= PNG_MAX_SIDE_PX else ".jpg"
        draft = self.path / f".{image_id}.draft-{os.getpid()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                rgb.save(draft, "PNG" if suffix == ".png" else "JPEG", quality=JPEG_QUALITY)
                draft.replace(self.path / f"{image_id}{suffix}")
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise PoolError(
                f"labeled images cannot be kept in {self.path} ({error.strerror or error}): check "
                "that the folder is writable and has space left"
            ) from error
