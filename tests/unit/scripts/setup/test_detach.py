"""Find the project to detach, and take it out of the list of projects."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.errors import SettingsError
from backend.base.settings import Settings
from backend.store.project_record import (
    begin_detaching,
    end_detaching,
    known_projects,
    project_root,
    read_former,
    read_half_detached,
    write_record,
)
from scripts.setup.detach import find_attached
from tests.unit.rounds.conftest import attached_record


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(_env_file=None, model_dir=tmp_path)


def record(settings: Settings, project_id: int, title: str) -> Path:
    root = project_root(settings.model_dir, project_id)
    changes = {"project_id": project_id, "title": title}
    write_record(root, attached_record(("a", "b")).model_copy(update=changes))
    return root


def test_the_project_is_found_by_id_or_title_or_because_it_is_the_only_one(
    settings: Settings,
) -> None:
    with pytest.raises(SettingsError, match="attached to no project"):
        find_attached(settings, "")
    record(settings, 12, "Birds")
    assert find_attached(settings, "").project_id == 12
    record(settings, 13, "Cats")
    assert find_attached(settings, "13").title == "Cats"
    assert find_attached(settings, "Birds").project_id == 12
    with pytest.raises(SettingsError, match=r'12 \("Birds"\), 13 \("Cats"\)'):
        find_attached(settings, "")


def test_a_detached_project_is_no_longer_listed_but_its_record_is_kept_for_attaching_again(
    settings: Settings,
) -> None:
    root = record(settings, 12, "Birds")
    begin_detaching(root)
    assert known_projects(settings.model_dir) == []
    assert find_attached(settings, "Birds").project_id == 12  # a rerun continues
    end_detaching(root)
    assert read_half_detached(settings.model_dir) == []
    former = read_former(root)
    assert former is not None
    assert former.title == "Birds"
    write_record(root, former)
    assert read_former(root) is None
    assert known_projects(settings.model_dir) == [12]
