"""List a pool's images without reading their pixels."""

from __future__ import annotations

from pathlib import Path

from backend.images.catalog import CatalogImage, open_catalog
from backend.images.digest import digest
from backend.images.pool import open_pool
from backend.images.validation_sample import KNOWN, Validation
from tests.unit.images.image_folders import make_folder, save_image


def test_it_knows_the_images_that_the_pool_knows(tmp_path: Path) -> None:
    folder, index = make_folder(tmp_path / "pool"), tmp_path / "pool.parquet"
    save_image(folder / "test/cat/copy.png", (255, 0, 200))  # of test/cat/0.png
    pool = open_pool(str(folder), tmp_path, seed=0, index=index)
    catalog = open_catalog(str(folder), tmp_path, index, seed=0, validation=KNOWN)
    assert catalog.pool_name == pool.name
    assert catalog.known_ids == set(pool.known_ids)
    held_out = {image.image_id: (image.split, image.known_label) for image in catalog.held_out()}
    assert held_out == {
        image_id: (split, pool.classes[label])
        for split, of_split in (("validation", pool.validation), ("test", pool.test))
        for image_id, label in zip(of_split.image_ids, of_split.labels, strict=True)
    }
    location = "train/cat/3.png"
    image = catalog.find(digest(location))
    assert image is not None
    assert (image.location, image.known_label, image.is_removed) == (location, "cat", False)
    assert catalog.find("of no image") is None


def test_held_out_images_that_are_damaged_or_lost_are_left_out(tmp_path: Path) -> None:
    folder, index = make_folder(tmp_path / "pool"), tmp_path / "pool.parquet"
    (folder / "test/cat/damaged.png").write_bytes(b"no image")
    save_image(folder / "test/cat/lost.png", (9, 9, 9))
    open_pool(str(folder), tmp_path, seed=0, index=index)
    (folder / "test/cat/lost.png").unlink()
    open_pool(str(folder), tmp_path, seed=0, index=index)
    catalog = open_catalog(str(folder), tmp_path, index, seed=0, validation=KNOWN)
    of_test = {image.location for image in catalog.held_out() if image.split == "test"}
    assert of_test == {"test/cat/0.png", "test/dog/0.png"}
    lost = catalog.find(digest("test/cat/lost.png"))
    assert lost is not None
    assert lost.is_removed


def test_a_copy_counts_for_the_first_image_even_in_the_sample(tmp_path: Path) -> None:
    folder, index = tmp_path / "pool", tmp_path / "pool.parquet"
    for i in range(20):
        save_image(folder / f"{i}.png", (i, 0, 0))
        save_image(folder / f"copy of {i}.png", (i, 0, 0))
    validation = Validation("people", 4)
    pool = open_pool(
        str(folder), tmp_path, seed=0, validation=validation, index=index, classes=("cat", "dog")
    )
    catalog = open_catalog(str(folder), tmp_path, index, seed=0, validation=validation)
    assert catalog.known_ids == set(pool.known_ids)
    ids = [digest(f"{name}{i}.png") for name in ("", "copy of ") for i in range(20)]
    assert {i: catalog.canonical(i) for i in ids} == {i: pool.canonical(i) for i in ids}
    assert {i for i in ids if catalog.is_in_sample(i)} == {i for i in ids if pool.is_in_sample(i)}
    assert any(catalog.is_in_sample(i) for i in ids[20:])
    assert list(catalog.held_out()) == []  # their labels are not known


def test_the_digits_have_no_files(tmp_path: Path) -> None:
    pool = open_pool("digits", tmp_path, seed=0)
    catalog = open_catalog("digits", tmp_path, tmp_path / "none", seed=0, validation=KNOWN)
    assert catalog.known_ids == set(pool.known_ids)
    held_out = list(catalog.held_out())
    assert len(held_out) == len(pool.validation.image_ids) + len(pool.test.image_ids)
    label = pool.classes[pool.test.labels[0]]
    assert CatalogImage("test-00000", "", "test", label, is_removed=False) in held_out


def test_images_can_be_added_but_not_replaced(tmp_path: Path) -> None:
    folder, index = tmp_path / "pool", tmp_path / "pool.parquet"
    save_image(folder / "1.png")
    open_pool(str(folder), tmp_path, seed=0, index=index, classes=("cat", "dog"))
    catalog = open_catalog(str(folder), tmp_path, index, seed=0, validation=KNOWN)
    more = catalog.with_images({digest("1.png"): "elsewhere", "ls-2": "2 /b.png"})
    assert more.known_ids == {digest("1.png"), "ls-2"}
    first, second = more.find(digest("1.png")), more.find("ls-2")
    assert first is not None
    assert second is not None
    assert (first.location, second.location, second.split) == ("1.png", "2 /b.png", "pool")
