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
from backend.images.pool import Pool, hold_out_sample, open_pool
from backend.images.validation_sample import KNOWN, Validation
from tests.unit.images.image_folders import class_by_color, save_image


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


# A validation sample that annotators label

PEOPLE = Validation("people", 30)


def sampled(folder: Path, validation: Validation = PEOPLE, budget_s: float = 1e9) -> Pool:
    return open_pool(
        str(folder),
        folder.parent / "data",
        seed=0,
        validation=validation,
        index=folder.parent / "p1/pool.parquet",
        classes=("cat", "dog"),
        image_size=16,
        budget_s=budget_s,
    )


def photos(folder: Path, count: int = 50, red: int = 9) -> dict[str, Path]:
    """Unlabeled images by id; the blue of each is its number."""
    paths = [save_image(folder / f"{i}.png", (red, 9, i)) for i in range(count)]
    return {digest(path.name): path for path in paths}


def test_the_sample_of_a_data_set_leaves_the_pool_for_every_purpose(tmp_path: Path) -> None:
    known = open_pool("digits", tmp_path, seed=0)
    pool = open_pool("digits", tmp_path, seed=0, validation=PEOPLE)

    sample = pool.sample.image_ids
    assert (pool.validated_by, pool.n_held_out, len(sample)) == ("people", 40, 40)
    assert (known.validated_by, known.n_held_out) == ("known", len(known.validation.image_ids))
    assert len(pool.validation.image_ids) == len(pool.validation.images) == 0
    assert {*sample, *pool.image_ids} == {*known.image_ids, *known.validation.image_ids}
    assert not {*sample} & {*pool.known_ids, *true_labels(pool), *seed_labels(pool, 500, 0)}
    assert all(map(pool.is_in_sample, sample))
    assert not any(map(pool.is_in_sample, pool.image_ids))
    assert np.array_equal(pool.images_of(sample[5:7])[:], pool.sample.images[5:7])
    [shared, *_] = {*sample} & {*known.image_ids}
    assert np.array_equal(pool.images_of([shared])[:], known.images_of([shared])[:])
    assert pool.task_image(sample[0], 1600).mime == "image/png"
    assert pool.thumbnail(sample[0]).startswith("data:image/png")
    with pytest.raises(PoolError, match="contains no image"):
        pool.positions(sample[:1])


def test_the_sample_of_a_labeled_folder_hides_its_labels(folder: Path) -> None:
    pool = sampled(folder)

    assert len(pool.sample.image_ids) == 8  # a fifth of 40
    assert len(pool.image_ids) == 32
    assert list(true_labels(pool)) == list(pool.image_ids)
    assert len(seed_labels(pool, 500, 0)) == 32
    assert pool.validation.labels.shape == (0,)
    assert len(pool.test.labels) == 2


def test_labels_of_sampled_images_select_them_in_the_order_of_the_sample(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    sample = sampled(tmp_path / "photos").sample
    first, second, third = sample.image_ids[:3]
    labeled = sample.select({third: 1, first: 0, "unknown": 1})
    assert labeled.image_ids == (first, third)
    assert labeled.labels.tolist() == [0, 1]
    assert np.array_equal(labeled.images[:], sample.images[np.array([0, 2])])
    assert second not in labeled.image_ids


def test_added_images_join_the_sample_and_removed_ones_stay_only_if_labeled(
    tmp_path: Path,
) -> None:
    paths = photos(tmp_path / "photos")
    before = sampled(tmp_path / "photos")
    assert len(before.sample.image_ids) == 10
    labeled, unlabeled, *kept = before.sample.image_ids
    before.keep_labeled([labeled])
    paths[labeled].unlink()
    paths[unlabeled].unlink()
    for file in (tmp_path / "data").rglob("pixels.bin"):
        file.unlink()  # the cache may go: the labeled folder has the pixels
    photos(tmp_path / "photos/more", red=200)

    after = sampled(tmp_path / "photos")

    assert {*kept, labeled} < {*after.sample.image_ids}
    assert unlabeled not in after.sample.image_ids
    assert after.sample.image_ids[0] == labeled
    assert after.sample.images[:1][0, 0, 0].tolist() == [9, 9, int(paths[labeled].stem)]
    assert after.retired_ids == ()
    assert all(map(after.is_in_sample, before.sample.image_ids))
    assert after.n_held_out == len(after.sample.image_ids) - 1  # without the removed one


def test_a_copy_of_a_sampled_image_is_in_the_sample(tmp_path: Path) -> None:
    paths = photos(tmp_path / "photos")
    first = sampled(tmp_path / "photos").sample.image_ids[0]
    copy = tmp_path / "photos/z copy.png"
    copy.write_bytes(paths[first].read_bytes())
    pool = sampled(tmp_path / "photos")
    assert pool.canonical(digest(copy.name)) == first
    assert pool.is_in_sample(digest(copy.name))
    assert not pool.is_in_sample("made by hand")
    assert len(pool.image_ids) == 40


def test_the_first_images_that_are_decoded_include_a_few_of_the_sample_in_their_order(
    tmp_path: Path,
) -> None:
    photos(tmp_path / "photos", 200)
    early = sampled(tmp_path / "photos", budget_s=0)  # decodes 64 images
    assert len(early.sample.image_ids) == 16
    assert len(early.image_ids) == 48
    assert early.n_held_out == 40
    whole = sampled(tmp_path / "photos")
    assert whole.sample.image_ids[:16] == early.sample.image_ids
    assert len(whole.sample.image_ids) == 40


def test_a_pool_without_validation_gets_a_sample_of_images_that_were_never_queried(
    tmp_path: Path,
) -> None:
    paths = photos(tmp_path / "photos")
    before = sampled(tmp_path / "photos", KNOWN)
    assert (before.n_held_out, before.sample.image_ids) == (0, ())
    queried = sorted(paths)[:30]

    after = hold_out_sample(before, 0, 30, queried)

    assert len(after.sample.image_ids) == 4  # a fifth of 20
    assert not {*after.sample.image_ids} & {*queried, *after.image_ids}
    assert sampled(tmp_path / "photos", KNOWN).sample.image_ids == after.sample.image_ids
    again = hold_out_sample(before, 0, 30, ())
    assert again.sample.image_ids == after.sample.image_ids  # it is drawn once


def test_pools_of_one_folder_with_and_without_a_sample_do_not_disturb_each_other(
    folder: Path, tmp_path: Path
) -> None:
    before = open_pool(str(folder), tmp_path, seed=0)
    pool = open_pool(str(folder), tmp_path, seed=0, validation=PEOPLE)
    after = open_pool(str(folder), tmp_path, seed=0)
    assert len(pool.sample.image_ids) == 8
    assert after.image_ids == before.image_ids
    assert len(after.validation.labels) == 4
