"""Test which images set-up holds out in projects of this and of earlier releases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from backend.base.errors import SettingsError
from backend.base.labeling import Asked
from backend.images.pool import Pool, open_pool
from backend.images.validation_sample import KNOWN, Validation
from backend.labelstudio.project_setup import ProjectSetup
from backend.store.project_record import POOL_INDEX, project_root
from backend.store.project_store import ProjectStore
from scripts.setup.checks import Plan
from scripts.setup.validation import describe_validation, draw_missing_sample, validated_by
from tests.unit.images.image_folders import make_folder, save_image
from tests.unit.store.test_registry import record


class Project:
    """A project in Label Studio with tasks for these images."""

    def __init__(self, *image_ids: str) -> None:
        self._image_ids = {*image_ids, ""}  # one task was created by a person

    def image_ids(self) -> set[str]:
        return self._image_ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project_root(tmp_path / "models", 7)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 50 unlabeled images."""
    for number in range(50):
        save_image(tmp_path / f"photos/{number}.png", (9, 9, number))
    return tmp_path / "photos"


def opened(folder: Path, root: Path, validation: Validation = KNOWN) -> Pool:
    return open_pool(
        str(folder),
        folder.parent / "data",
        seed=0,
        validation=validation,
        index=root / POOL_INDEX,
        classes=("cat", "dog"),
        image_size=16,
    )


def plan(**changes: Any) -> Plan:
    """Plan to set up again a project of an earlier release."""
    made_before = Plan(
        title="T",
        record=record(7),
        pool="digits",
        weights="none",
        seed=0,
        seed_labels=0,
        classes=("cat", "dog"),
        validation=None,
        validation_labels=30,
    )
    return replace(made_before, **changes)


def drawn(plan: Plan, pool: Pool, root: Path, *tasks: str) -> Pool:
    return draw_missing_sample(plan, pool, cast(ProjectSetup, Project(*tasks)), root)


def test_an_earlier_project_without_validation_gets_a_sample_of_images_never_queried(
    photos: Path, root: Path
) -> None:
    before = opened(photos, root)
    assert validated_by(plan(), before, root) is None
    ids = sorted(before.image_ids)
    deleted = [Asked(image_id, 1, "margin", "r0001") for image_id in ids[20:30]]
    ProjectStore(root).record_asked(deleted)  # their tasks no longer exist

    pool = drawn(plan(), before, root, *ids[:20])

    assert len(pool.sample.image_ids) == 4  # a fifth of 20
    assert not {*pool.sample.image_ids} & {*ids[:30]}
    assert validated_by(plan(), pool, root) == "people"
    assert describe_validation(pool, 3) == "3 images that annotators label (4 held out)"
    again = drawn(plan(), opened(photos, root), root)
    assert again.sample.image_ids == pool.sample.image_ids


def test_an_earlier_project_with_known_validation_keeps_it(tmp_path: Path, root: Path) -> None:
    before = opened(make_folder(tmp_path / "birds"), root)
    pool = drawn(plan(), before, root)
    assert pool.validation.image_ids == before.validation.image_ids
    assert validated_by(plan(), pool, root) == "known"
    assert describe_validation(pool, 30) == "4 images with known labels"


def test_an_earlier_project_refuses_a_validation_that_differs_from_its_images(
    tmp_path: Path, photos: Path, root: Path
) -> None:
    unlabeled = opened(photos, root)
    with pytest.raises(SettingsError, match=r"=known contradicts .* no images with known labels"):
        drawn(plan(validation="known"), unlabeled, root)
    labeled = opened(make_folder(tmp_path / "birds"), project_root(tmp_path / "models", 8))
    with pytest.raises(SettingsError, match=r"=people contradicts .* with known labels are held"):
        drawn(plan(validation="people"), labeled, root)
    assert drawn(plan(validation="people"), unlabeled, root).n_held_out == 10


def test_a_project_whose_images_were_all_queried_gets_its_sample_later(
    photos: Path, root: Path
) -> None:
    before = opened(photos, root)
    pool = drawn(plan(), before, root, *before.image_ids)
    assert pool.validated_by == "known"
    assert validated_by(plan(), pool, root) is None
    assert describe_validation(pool, 30) == "none: too few images are left to hold out"
    for number in range(5):
        save_image(photos / f"new-{number}.png", (200, 9, number))
    later = drawn(plan(), opened(photos, root), root, *before.image_ids)
    assert later.n_held_out == 1


def test_new_projects_hold_out_images_when_they_are_listed(photos: Path, root: Path) -> None:
    pool = opened(photos, root, Validation("people", 30))
    new = plan(record=None, validation="people")
    assert drawn(new, pool, root) is pool
    assert validated_by(new, pool, root) == "people"
    assert describe_validation(pool, 7) == "7 images that annotators label (10 held out)"
