"""Test finding images by the names that people use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.images.digest import digest
from backend.images.listing import Listed, make_listing
from backend.images.pool import Pool, open_pool
from backend.images.source_images import SourceImages
from backend.results.image_names import image_finder
from tests.unit.images.image_folders import save_image


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    for place in ("a/1.png", "b/2.png"):
        save_image(tmp_path / "photos" / place, (9, 9, ord(place[0])))
    return open_pool(
        str(tmp_path / "photos"), tmp_path / "data", seed=0, classes=("cat", "dog"), image_size=16
    )


def test_an_image_is_found_by_its_path_its_absolute_path_and_its_id(pool: Pool) -> None:
    find = image_finder(pool, is_attached=False)
    image_id = digest("a/1.png")
    assert find("a/1.png") == find(f"{pool.name}/a/1.png") == find(image_id) == image_id
    with pytest.raises(ValueError, match="is not in the pool"):
        find("1.png")


def test_the_digits_are_found_by_id_in_every_split(tmp_path: Path) -> None:
    digits = open_pool("digits", tmp_path, seed=0)
    find = image_finder(digits, is_attached=False)
    for ids in (digits.image_ids, digits.validation.image_ids, digits.test.image_ids):
        assert find(ids[0]) == ids[0]


def test_a_task_is_found_by_its_address_unless_several_tasks_have_it(pool: Pool) -> None:
    places = {"ls-1": "1 /data/a.png", "ls-2": "2 /data/b.png", "ls-3": "3 /data/b.png"}
    listing = make_listing([Listed(i, place) for i, place in places.items()], {}, ())
    assert isinstance(pool.source, SourceImages)
    index = pool.source.index.empty("tasks").merge(listing).index
    attached = replace(pool, source=replace(pool.source, index=index))
    find = image_finder(attached, is_attached=True)
    assert find("/data/a.png") == find("ls-1") == "ls-1"
    assert find("ls-3") == "ls-3"
    with pytest.raises(ValueError, match="several images: use the image's id"):
        find("/data/b.png")
