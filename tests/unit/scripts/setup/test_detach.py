"""Find the project to detach, and take it out of the list of projects."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from backend.base.errors import DetachedError, SettingsError
from backend.base.settings import Settings
from backend.labelstudio.attached_project import open_project
from backend.rounds.reviews import collect_reviews
from backend.store.project_record import (
    DETACHING,
    RECORD,
    ProjectRecord,
    begin_detaching,
    change_record,
    end_detaching,
    known_projects,
    project_root,
    read_former,
    read_half_detached,
    write_record,
)
from scripts.research.oracle import OracleProject
from scripts.setup.attach import refresh, switch_on
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


def test_a_project_can_be_detached_after_a_kill_while_it_was_attached_again(
    settings: Settings,
) -> None:
    root = record(settings, 12, "Birds")
    begin_detaching(root)
    (root / RECORD).write_text((root / DETACHING).read_text())  # and killed before the next step
    assert find_attached(settings, "12").project_id == 12


def test_a_change_of_the_record_that_is_under_way_does_not_attach_the_project_again(
    settings: Settings,
) -> None:
    root = record(settings, 12, "Birds")
    detaching = Thread(target=begin_detaching, args=(root,))

    def change(found: ProjectRecord) -> ProjectRecord:
        detaching.start()
        detaching.join(0.5)
        return found.model_copy(update={"validation_images": 7})

    change_record(root, change)
    detaching.join()
    assert known_projects(settings.model_dir) == []
    former = read_former(root)
    assert former is not None
    assert former.validation_images == 7


def test_after_detaching_no_job_opens_the_project_as_one_of_ours_or_writes_reviews_into_it(
    settings: Settings,
) -> None:
    """The team's tasks would be read as ours, which have other image ids."""
    settings = settings.model_copy(update={"label_studio_url": "http://127.0.0.1:9"})
    root = record(settings, 12, "Birds")
    begin_detaching(root)
    project = OracleProject(("a", "b"))
    for _ in range(2):
        with pytest.raises(DetachedError, match="detached from project 12"):
            open_project(settings, 12)
        with pytest.raises(DetachedError, match="detached from project 12"):
            collect_reviews(root, project, project)
        if read_half_detached(settings.model_dir):
            end_detaching(root)


def test_a_set_up_that_began_before_detaching_connects_nothing(settings: Settings) -> None:
    root = record(settings, 12, "Birds")
    begin_detaching(root)
    former = read_former(root)
    assert former is not None
    for connect in (refresh, switch_on):
        with pytest.raises(DetachedError, match="detached from project 12"):
            connect(settings, former)
