"""Test what a pool holds and how it is named, on a small folder."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.base.errors import PoolError
from backend.images.digest import digest
from backend.images.known_labels import seed_labels, true_labels
from backend.images.pool import Pool, open_pool
from tests.unit.images.image_folders import (
    class_by_color,
)


def test_rows_ids_and_labels_of_a_folder_belong_together(pool: Pool, folder: Path) -> None:
    by_id = {digest(str(path.relative_to(folder))): path for path in folder.glob("train/*/*.png")}
    labels = true_labels(pool)

    assert pool.classes == ("cat", "dog")
    assert len(pool.image_ids) == len(pool.images) == 36  # 40 less a tenth
    assert list(labels) == list(pool.image_ids)
    for i, row in zip(pool.image_ids, pool.images, strict=True):
        assert np.array_equal(row, np.asarray(Image.open(by_id[i])))
        assert labels[i] == class_by_color(row)
    assert [pool.classes[k] for k in pool.test.labels] == [
        class_by_color(row) for row in pool.test.images
    ]


def test_neither_image_ids_nor_their_order_reveal_the_class(pool: Pool) -> None:
    labels = list(true_labels(pool).values())
    n_changes = sum(one != other for one, other in itertools.pairwise(labels))

    assert all(set(i) <= set("0123456789abcdef") and len(i) == 16 for i in pool.image_ids)
    assert n_changes >= 12  # sorted by class it would be 1, and at random about 18


def test_positions_are_the_rows_of_the_ids_in_the_order_given(pool: Pool) -> None:
    asked = [pool.image_ids[5], pool.image_ids[0], pool.image_ids[35]]

    assert pool.positions(asked).tolist() == [5, 0, 35]
    with pytest.raises(PoolError, match="contains no image 'cat-7'"):
        pool.positions(["cat-7"])


def test_an_unknown_name_is_an_error_that_lists_what_is_allowed(
    tmp_path: Path,
) -> None:
    with pytest.raises(PoolError, match="POOL=cifar: no such folder or list; allowed are auto"):
        open_pool("cifar", tmp_path, seed=0)


@pytest.mark.parametrize(("count", "per_class"), [(10, [5, 5]), (11, [5, 6]), (0, [])])
def test_seed_labels_are_true_balanced_and_seeded(
    pool: Pool, count: int, per_class: list[int]
) -> None:
    labels = seed_labels(pool, count, 3)

    assert sorted(Counter(labels.values()).values()) == per_class
    assert labels.items() <= true_labels(pool).items()
    assert seed_labels(pool, count, 3) == labels
    assert count == 0 or seed_labels(pool, count, 4) != labels


def test_more_seed_labels_than_known_are_all_that_are_known(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(seed_labels(pool, 36, 0)) == 36
    assert not caplog.records
    assert seed_labels(pool, 37, 0) == true_labels(pool)
    assert "SEED_LABELS=37: only 36 images in the pool have a known label" in caplog.text
