"""Test that a loop opens the pool as it was recorded during set-up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.base.settings import Settings
from backend.rounds.loop import Loop, open_loop
from backend.store.project_record import POOL_INDEX, project_root, write_record
from scripts.research.oracle import OracleProject
from tests.unit.images.image_folders import save_image
from tests.unit.store.test_registry import record

BY_PEOPLE: dict[str, Any] = {
    "validation": "people",
    "validation_labels": 30,
    "validation_images": 40,
}


def opened(tmp_path: Path, *, is_for_training: bool = False, **recorded: Any) -> Loop:
    root = project_root(tmp_path / "models", 7)
    classes = ("cat", "dog") if "pool" in recorded else tuple("0123456789")
    write_record(root, record(7).model_copy(update={"classes": classes, **recorded}))
    settings = Settings.model_validate(
        {"model_dir": tmp_path / "models", "data_dir": tmp_path / "data", "device": "cpu"}
    )
    project = OracleProject(classes)
    return open_loop(settings, 7, project, is_for_training=is_for_training)


@pytest.mark.parametrize("recorded", [{"validation": "known"}, {}])
def test_known_labels_validate_as_recorded_and_in_projects_of_an_earlier_release(
    tmp_path: Path, recorded: dict[str, Any]
) -> None:
    loop = opened(tmp_path, **recorded)
    assert loop.validation_labels == 0
    assert loop.pool.validated_by == "known"
    assert len(loop.pool.validation.image_ids) > 0
    assert loop.pool.sample.image_ids == ()


def test_annotators_validate_as_recorded(tmp_path: Path) -> None:
    loop = opened(tmp_path, **BY_PEOPLE)
    assert loop.validation_labels == 30
    assert len(loop.pool.sample.image_ids) == 40  # a third more than the labels
    assert loop.pool.validation.image_ids == ()


def test_the_whole_sample_is_decoded_before_training(tmp_path: Path) -> None:
    for number in range(250):
        save_image(tmp_path / f"photos/{number}.png", (9, 9, number))
    folder: dict[str, Any] = {"pool": str(tmp_path / "photos"), **BY_PEOPLE}
    early = opened(tmp_path, **folder).pool
    assert early.source is not None
    assert early.source.index_path == project_root(tmp_path / "models", 7) / POOL_INDEX
    assert early.n_held_out == 40
    assert 0 < len(early.sample.image_ids) < 40
    whole = opened(tmp_path, is_for_training=True, **folder).pool
    assert len(whole.sample.image_ids) == 40
    assert whole.image_ids == early.image_ids
