"""A reader of the digits that waits for a test's permission, so that the test decides what is
done when it kills a process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.images.image_reader import ImageReader

FREE = 1000  # digits with a smaller number are read without permission


@dataclass(frozen=True)
class GatedReader:
    """Reads the later images only once the file `gate` exists."""

    reader: ImageReader
    gate: Path

    def check(self) -> None:
        """See `ImageReader.check`."""
        self.reader.check()

    def read(self, location: str) -> NDArray[np.uint8]:
        """Return an image; see `ImageReader.read`."""
        while int(location.split("-")[-1]) >= FREE and not self.gate.exists():
            time.sleep(0.05)
        return self.reader.read(location)
