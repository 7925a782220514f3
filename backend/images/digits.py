"""Provide scikit-learn's handwritten digits as the pool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.images.pool_cache import open_cache, write_meta, write_split
from backend.images.splits import draw_balanced

SIZE_PX = 32


def cache_digits(data_dir: Path) -> Path:
    """Cache the 1,797 digits, enlarged; a class-balanced fifth of them is the test split."""

    def write(draft: Path) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.stack([_enlarge(grey) for grey in digits.images])
        image_ids = [f"digits-{i:04d}" for i in range(len(images))]
        test = draw_balanced(image_ids, digits.target, len(images) // 5, "digits-test")
        train = np.setdiff1d(np.arange(len(images)), test)
        write_split(draft, "train", images[train], digits.target[train])
        write_split(draft, "test", images[test], digits.target[test])
        classes = [str(digit) for digit in digits.target_names]
        write_meta(draft, [image_ids[i] for i in train], classes, may_flip=False)

    return open_cache(data_dir, "digits", "all", write)


def _enlarge(grey: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert 8 x 8 values in 0..16 to RGB, smoothed because blocks would hide the strokes."""
    small = Image.fromarray((grey * 255 / 16).astype(np.uint8))
    large = small.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)
    return np.asarray(large.convert("RGB"))
