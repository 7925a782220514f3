"""Measure how large a source's images are."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

import numpy as np

from backend.base.errors import ImageError
from backend.images.decode import open_image
from backend.images.index import Index
from backend.images.sources import Source

MEASURED = 16  # images to open


def measure_side(source: Source, index: Index, max_pixels: int) -> int:
    """Return the longest side of the first readable images, or 0 if none can be read."""
    rows = np.flatnonzero(~index.table["is_removed"].to_numpy())[:MEASURED]
    locations = [entry.location for entry in index.entries(rows)]
    source.prefetch(locations)
    sides = [0]
    for location in locations:
        with (
            suppress(ImageError, OSError),
            source.open(location) as file,
            open_image(BytesIO(file.read()), max_pixels) as image,
        ):
            sides.append(max(image.size))
    return max(sides)
