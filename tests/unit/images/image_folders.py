"""Make small pool folders whose images tell their class and number by color."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save_image(
    path: Path, color: tuple[int, int, int] = RED, size: tuple[int, int] = (8, 8)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, compress_level=0)  # equal sizes make equal lengths
    return path


def make_folder(root: Path, n_per_class: int = 20) -> Path:
    """Cats are red and dogs are green, and each image's blue is its number."""
    for i in range(n_per_class):
        save_image(root / f"train/cat/{i}.png", (255, 0, i))
        save_image(root / f"train/dog/{i}.png", (0, 255, i))
    save_image(root / "test/cat/0.png", (255, 0, 200))
    save_image(root / "test/dog/0.png", (0, 255, 200))
    return root


def class_by_color(pixels: np.ndarray[Any, Any]) -> str:
    return "cat" if pixels[0, 0, 0] == 255 else "dog"
