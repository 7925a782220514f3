"""Test the validation split of a small folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from backend.images import pixels
from backend.images.pool import Pool, open_pool
from tests.unit.images.image_folders import (
    class_by_color,
    make_folder,
    save_image,
)


def test_validation_is_a_balanced_tenth_outside_the_pool(pool: Pool) -> None:
    assert pool.validation.labels.tolist().count(0) == 2
    assert pool.validation.labels.tolist().count(1) == 2
    held_out = {row.tobytes() for row in pool.validation.images}
    asked = {row.tobytes() for row in pool.images}
    assert len(held_out) == 4
    assert len(held_out | asked) == 40
    for row, label in zip(pool.validation.images, pool.validation.labels, strict=True):
        assert class_by_color(row) == pool.classes[label]


def test_the_same_seed_holds_out_the_same_images_in_any_folder(tmp_path: Path) -> None:
    here = make_folder(tmp_path / "here")
    there = tmp_path / "there"
    for path in sorted(here.rglob("*.png"), reverse=True):  # written in another order
        save_image(there / path.relative_to(here)).write_bytes(path.read_bytes())

    first = open_pool(str(here), tmp_path / "data", seed=7)
    second = open_pool(str(there), tmp_path / "other", seed=7)

    assert first.image_ids == second.image_ids
    assert np.array_equal(first.images[:], second.images[:])
    assert np.array_equal(first.validation.images[:], second.validation.images[:])


def test_another_seed_holds_out_others_without_decoding_again(
    pool: Pool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pixels, "frame")

    other = open_pool(str(folder), tmp_path, seed=1)

    assert set(other.image_ids) != set(pool.image_ids)
    again = open_pool(str(folder), tmp_path, seed=0)
    assert again.image_ids == pool.image_ids
    assert np.array_equal(again.images[:], pool.images[:])


def test_a_rare_class_keeps_half_of_its_images_in_the_pool(tmp_path: Path) -> None:
    for i in range(58):
        save_image(tmp_path / f"images/train/cat/{i}.png", (255, 0, i))
    for i in range(2):
        save_image(tmp_path / f"images/train/dog/{i}.png", (0, 255, i))

    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    assert Counter(pool.validation.labels.tolist()) == {0: 5, 1: 1}


def test_images_added_later_remove_none_from_the_pool(folder: Path, tmp_path: Path) -> None:
    before = open_pool(str(folder), tmp_path, seed=0)
    for i in range(9):  # 49 images hold out 4, as 40 do
        save_image(folder / f"train/cat/new-{i}.png", (0, 0, i))

    after = open_pool(str(folder), tmp_path, seed=0)

    assert len(after.image_ids) == 45
    assert set(before.image_ids) < set(after.image_ids)
