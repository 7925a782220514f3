"""Test the digits as a pool."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from backend.images.pool import open_pool


def test_digits_are_rgb_with_a_balanced_fifth_for_testing_and_no_flips(
    tmp_path: Path,
) -> None:
    pool = open_pool("digits", tmp_path, seed=0)

    assert pool.classes == tuple("0123456789")
    assert pool.test.images.shape == (359, 32, 32, 3)
    assert set(Counter(pool.test.labels.tolist()).values()) == {35, 36}
    assert Counter(pool.validation.labels.tolist()).total() == 143
    assert pool.images.shape == (1797 - 359 - 143, 32, 32, 3)
    assert pool.images[:].max() == 255
    assert (pool.name, pool.may_flip, pool.notice) == ("digits", False, "")


def test_a_digits_task_carries_its_array_as_png(tmp_path: Path) -> None:
    pool = open_pool("digits", tmp_path, seed=0)
    image_id = pool.image_ids[-1]

    image = pool.task_image(image_id, 1600)

    assert image.mime == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.content))), pool.images[-1:][0])
    assert image_id.startswith("digits-")
    assert len(image_id) == len("digits-0042")
