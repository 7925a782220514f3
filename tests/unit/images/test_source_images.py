"""Test pools of folders whose images come, change and go."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from backend.base.errors import PoolError
from backend.images import pixels, source_images
from backend.images.digest import digest
from backend.images.framing import View
from backend.images.known_labels import seed_labels, true_labels
from backend.images.pool import Pool, open_pool, rescan
from backend.images.splits import draw_validation
from tests.unit.images.image_folders import BLUE, make_folder, save_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve unlabeled images in two sub-folders; the blue of each is its number."""
    for i in range(12):
        save_image(tmp_path / f"photos/{'ab'[i % 2]}/{i}.png", (9, 9, i))
    return tmp_path / "photos"


def opened(folder: Path, *, rescan: bool = True, budget_s: float = 1e9, size: int = 16) -> Pool:
    return open_pool(
        str(folder),
        folder.parent / "data",
        seed=0,
        index=folder.parent / "p1/pool.parquet",
        classes=("cat", "dog"),
        image_size=size,
        rescan=rescan,
        budget_s=budget_s,
    )


def blues(pool: Pool) -> dict[str, int]:
    return {i: int(b) for i, b in zip(pool.image_ids, pool.images[:][:, 0, 0, 2], strict=True)}


def id_of(path: str) -> str:
    return digest(path)


def test_an_unlabeled_folder_is_a_pool_without_validation_or_seeds(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = opened(photos)

    assert sorted(blues(pool).values()) == list(range(12))
    assert blues(pool)[id_of("b/3.png")] == 3
    assert pool.classes == ("cat", "dog")
    for split in (pool.validation, pool.test):
        assert split.images.shape == (0, 8, 8, 3)
        assert split.labels.shape == (0,)
    assert true_labels(pool) == {}
    assert seed_labels(pool, 5, 0) == {}
    assert "only 0 images in the pool have a known label" in caplog.text
    assert pool.thumbnail(pool.image_ids[0]).startswith("data:image/png")
    assert pool.task_image(pool.image_ids[0], 1600).mime == "image/png"


def test_an_unlabeled_folder_needs_classes(photos: Path) -> None:
    with pytest.raises(PoolError, match="give two or more classes with CLASSES=cat,dog"):
        open_pool(str(photos), photos.parent, seed=0)


def test_only_images_that_were_added_or_changed_are_decoded(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened(photos)
    decoded: list[str] = []
    decode = pixels.PixelStore._decode

    def record(store: pixels.PixelStore, one: pixels.Original, *rest: object) -> object:
        decoded.append(one.location)
        return decode(store, one, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pixels.PixelStore, "_decode", record)
    save_image(photos / "c/new.png", (9, 9, 200))
    save_image(photos / "a/0.png", (9, 9, 100))
    os.utime(photos / "a/0.png", ns=(0, 1))

    after = opened(photos)

    assert sorted(decoded) == ["a/0.png", "c/new.png"]
    changed = {id_of("a/0.png"): 100, id_of("c/new.png"): 200}
    assert blues(after) == blues(before) | changed
    assert blues(before)[id_of("a/0.png")] == 0
    decoded.clear()
    assert opened(photos).image_ids == after.image_ids
    assert opened(photos, rescan=False).image_ids == after.image_ids
    assert decoded == []


def test_without_a_rescan_new_images_wait(photos: Path) -> None:
    before = opened(photos)
    save_image(photos / "new.png", BLUE)
    assert opened(photos, rescan=False).image_ids == before.image_ids


def test_images_that_are_not_decoded_in_time_wait_and_join_later(
    tmp_path: Path,
) -> None:
    for i in range(pixels.CHUNK + 6):
        save_image(tmp_path / f"photos/{i}.png", (9, i, i))

    early = opened(tmp_path / "photos", budget_s=0)

    assert len(early.image_ids) == pixels.CHUNK
    assert early.n_waiting == 6
    whole, _ = rescan(early, 0, must_list=False, budget_s=60)
    assert len(whole.image_ids) == pixels.CHUNK + 6
    assert whole.n_waiting == 0
    assert set(early.image_ids) < set(whole.image_ids)


def test_the_first_images_of_the_pool_come_first_and_then_those_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_images, "FIRST", 10)
    monkeypatch.setattr(pixels, "CHUNK", 14)
    folder = make_folder(tmp_path / "images")  # 36 in the pool, 4 for validation, 2 for test

    early = opened(folder, budget_s=0)

    counts = [len(s.image_ids) for s in (early, early.validation, early.test)]
    assert counts[0] == 10
    assert counts[1] + counts[2] == 4
    assert early.n_waiting == 42 - 14


def test_a_deleted_cache_is_decoded_again_even_without_a_rescan(photos: Path) -> None:
    before = blues(opened(photos))
    for file in (photos.parent / "data").rglob("whole-16/*"):
        file.unlink()
    assert blues(opened(photos, rescan=False)) == before


def test_copies_are_one_image_and_the_first_path_counts(photos: Path) -> None:
    original = photos / "a/4.png"
    (photos / "b/copy of 4.png").write_bytes(original.read_bytes())

    pool = opened(photos)

    assert len(pool.image_ids) == 12
    first, copy = id_of("a/4.png"), id_of("b/copy of 4.png")
    assert first in pool.image_ids
    assert pool.canonical(copy) == first
    assert pool.canonical(first) == first
    assert pool.canonical("made by hand") == "made by hand"


def test_a_labeled_image_that_was_removed_is_learned_but_not_asked(photos: Path) -> None:
    pool = opened(photos)
    gone, never_kept = id_of("a/2.png"), id_of("a/6.png")
    pool.keep_labeled([gone])
    (photos / "a/2.png").unlink()
    (photos / "a/6.png").unlink()

    after = opened(photos)

    assert after.retired_ids == (gone,)
    assert len(after.image_ids) == 10
    assert not {gone, never_kept} & set(after.image_ids)
    assert after.positions([gone]).tolist() == [10]
    assert after.images_of([gone])[:][0, 0, 0].tolist() == [9, 9, 2]
    with pytest.raises(PoolError, match="contains no image"):
        after.positions([never_kept])

    for file in (photos.parent / "data").rglob("pixels.bin"):
        file.unlink()  # the cache may go: the labeled folder has the pixels
    again = opened(photos)
    assert again.images_of([again.image_ids[0], gone])[:][1, 0, 0].tolist() == [9, 9, 2]
    assert again.task_image(gone, 1600).mime == "image/png"
    save_image(photos / "a/2.png", (9, 9, 2))
    assert opened(photos).retired_ids == ()


def test_a_version_of_the_middle_square_gets_its_own_pixels(tmp_path: Path) -> None:
    for i in range(3):
        wide = save_image(tmp_path / f"photos/{i}.png", (9, 9, i), size=(300, 100))
        assert wide.exists()
    pool = opened(tmp_path / "photos")
    assert pool.images.shape == (3, 16, 16, 3)
    middle = pool.images_of(pool.image_ids[:2], View(64, "middle"))
    assert middle.shape == (2, 96, 96, 3)
    assert pool.images_of(pool.image_ids[:2], View(32)).shape == (2, 32, 32, 3)


def test_auto_takes_64_px_for_small_images_and_128_px_for_larger_ones(tmp_path: Path) -> None:
    for side in (64, 65):
        for i in range(2):
            save_image(tmp_path / f"{side}/{i}.png", (9, 9, i), size=(side, 10))
        pool = open_pool(str(tmp_path / f"{side}"), tmp_path, seed=0, classes=("cat", "dog"))
        assert pool.image_size == (64 if side == 64 else 128)


def test_loose_images_make_all_labels_seeds_and_none_validates(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images")
    save_image(folder / "loose.png", BLUE)
    pool = opened(folder)
    assert len(pool.image_ids) == 41
    assert len(pool.validation.labels) == 0
    assert len(true_labels(pool)) == 40
    assert len(pool.test.labels) == 2


def test_the_validation_split_of_an_earlier_release_is_kept(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images")
    cache = tmp_path / f"data/pools/folder-{digest(str(folder))}-0123-v1"
    cache.mkdir(parents=True)
    # It knew only the first ten of each class.
    paths = [f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(10)]
    ids, labels = [digest(path) for path in paths], np.repeat([0, 1], 10)
    (cache / "index.json").write_text(json.dumps({"image_ids": ids, "paths": paths}))
    np.save(cache / "train_labels.npy", labels)

    pool = opened(folder)

    held_out = {ids[row] for row in draw_validation(ids, labels, 0)}
    assert set(pool.validation.image_ids) == held_out
    assert len(held_out) == 2


def test_no_image_enters_or_leaves_validation_by_a_rescan(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images")
    before = opened(folder)
    for i in range(60):
        save_image(folder / f"train/cat/new-{i}.png", (0, 9, i))
    after = opened(folder)
    assert after.validation.image_ids == before.validation.image_ids
    assert len(after.image_ids) == 36 + 60


def test_damaged_files_are_named_and_left_out(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "a/0.png").write_text("not an image")
    pool = opened(photos)
    assert len(pool.image_ids) == 11
    assert "a/0.png" in caplog.text
    assert "damaged" in caplog.text
    assert pool.n_waiting == 0


def test_a_higher_pixel_limit_includes_images_that_were_too_large(tmp_path: Path) -> None:
    for i in range(3):
        save_image(tmp_path / f"photos/{i}.png", (9, 9, i))
    save_image(tmp_path / "photos/large.png", BLUE, size=(2000, 1000))

    def n_images(max_pixels: int) -> int:
        pool = open_pool(
            str(tmp_path / "photos"), tmp_path, seed=0, classes=("a", "b"), max_pixels=max_pixels
        )
        return len(pool.image_ids)

    assert [n_images(1_999_999), n_images(2_000_000)] == [3, 4]


def test_a_moved_folder_keeps_its_index_and_another_folder_is_refused(photos: Path) -> None:
    before = opened(photos)
    moved = photos.rename(photos.with_name("moved"))
    assert opened(moved).image_ids == before.image_ids
    save_image(photos.with_name("others") / "x.png")
    with pytest.raises(PoolError, match="set a new PROJECT_TITLE to label other images"):
        opened(photos.with_name("others"))


def test_a_folder_that_is_empty_now_changes_nothing(photos: Path) -> None:
    before = opened(photos)
    away = photos.rename(photos.with_name("away"))
    photos.mkdir()
    with pytest.raises(PoolError, match="contains no images"):
        opened(photos)
    photos.rmdir()
    away.rename(photos)
    assert opened(photos).image_ids == before.image_ids


def test_labeled_images_that_cannot_be_kept_are_named(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = opened(photos).image_ids
    shutil.rmtree(opened(photos).folder)  # the decoded pixels, of which all but 2.png come back
    (photos / "a/2.png").unlink()
    pool = opened(photos, rescan=False)
    pool.keep_labeled(ids)
    assert "could not keep labeled images: 1 of 12" in caplog.text
    assert "No such file or directory" in caplog.text
    assert pool.source is not None
    assert pool.source.labeled is not None
    assert pool.source.labeled.image_ids() == set(ids) - {id_of("a/2.png")}


def test_a_labeled_image_whose_original_is_gone_is_kept_as_it_was_decoded(photos: Path) -> None:
    pool = opened(photos)
    (photos / "a/2.png").unlink()
    pool.keep_labeled([id_of("a/2.png")])
    shutil.rmtree(pool.folder)
    after = opened(photos)
    assert after.retired_ids == (id_of("a/2.png"),)
    assert after.images_of(after.retired_ids)[:][0, 0, 0].tolist() == [9, 9, 2]


def test_needed_and_held_out_images_are_decoded_whatever_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "CHUNK", 2)
    folder = make_folder(tmp_path / "images")  # 36 in the pool, 4 for validation, 2 for test
    few = opened(folder, budget_s=0)
    assert [len(s.image_ids) for s in (few, few.validation, few.test)] == [2, 0, 0]
    [needed, *_] = sorted(set(true_labels(few)) - set(few.image_ids))

    again = open_pool(
        str(folder), tmp_path / "data", seed=0, index=tmp_path / "p1/pool.parquet",
        image_size=16, rescan=False, budget_s=0, needed=[needed], needs_held_out=True,
    )  # fmt: skip

    assert set(again.image_ids) == {*few.image_ids, needed}
    assert [len(s.image_ids) for s in (again.validation, again.test)] == [4, 2]
