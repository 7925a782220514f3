"""Record the choices of set-up, and find the projects that are set up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.base.errors import (
    ModelFolderError,
    SettingsError,
)
from backend.store.project_record import (
    known_projects,
    pick_project,
    project_root,
    read_record,
    write_record,
)
from tests.unit.store.test_registry import record


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project_root(tmp_path, 7)


def test_the_record_of_a_project_is_read_back_and_names_its_folder(tmp_path: Path) -> None:
    root = project_root(tmp_path, 7)
    assert read_record(root) is None
    write_record(root, record())
    assert read_record(root) == record()
    (tmp_path / "p8").mkdir()  # not set up
    assert known_projects(tmp_path) == [7]


def test_a_record_of_an_earlier_release_is_read(root: Path) -> None:
    fields = record().model_dump(mode="json", exclude={"seed_labels", "label_config"})
    root.mkdir()
    (root / "project.json").write_text(json.dumps(fields))
    assert read_record(root) == record()
    assert record().seed_labels is None


@pytest.mark.parametrize(
    ("validation_labels", "validation_images", "wanted"),
    [(200, 267, 200), (200, 20, 15), (200, 1, 1), (200, 0, 0), (None, None, 0)],
)
def test_a_small_sample_is_asked_for_three_quarters_of_its_labels(
    validation_labels: int | None, validation_images: int | None, wanted: int
) -> None:
    given = {"validation_labels": validation_labels, "validation_images": validation_images}
    assert record().model_copy(update=given).wanted_validation_labels == wanted


def test_a_damaged_record_says_what_to_do(root: Path) -> None:
    write_record(root, record())
    (root / "project.json").write_text(json.dumps({"project_id": 7}))
    with pytest.raises(ModelFolderError, match="setup_project"):
        read_record(root)


def test_the_only_project_need_not_be_named_but_one_of_several_must(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="setup_project"):
        pick_project(tmp_path, None)
    write_record(tmp_path / "p7", record(7))
    assert pick_project(tmp_path, None) == 7
    write_record(tmp_path / "p9", record(9))
    assert pick_project(tmp_path, 9) == 9
    with pytest.raises(SettingsError, match=r'7 \("T"\), 9 \("T"\)'):
        pick_project(tmp_path, None)
    with pytest.raises(SettingsError, match=r'7 \("T"\), 9 \("T"\)'):
        pick_project(tmp_path, 8)


def test_a_missing_model_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="MODEL_DIR"):
        known_projects(tmp_path / "gone")
