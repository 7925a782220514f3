"""Write a folder with as many different images of digits as a run needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 32
MAX_SHIFT, NOISE = 1, 12


def write_digit_pool(folder: Path, count: int) -> None:
    """Write `count` different images into folders train/<class>.

    Each shows one of scikit-learn's digits, shifted by up to a pixel, enlarged, with added noise.
    """
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(0)
    for name in digits.target_names:
        (folder / "train" / str(name)).mkdir(parents=True)
    for number in range(count):
        of = number % len(digits.images)
        shift = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, 2)
        grey = np.roll(digits.images[of] * 255 / 16, tuple(shift), (0, 1)).astype(np.uint8)
        large = Image.fromarray(grey).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
        noise = rng.integers(-NOISE, NOISE + 1, (SIDE_PX, SIDE_PX))
        pixels = np.clip(np.asarray(large, np.int16) + noise, 0, 255).astype(np.uint8)
        of_class = folder / "train" / str(digits.target[of])
        Image.fromarray(pixels).save(of_class / f"{number:05d}.png")
