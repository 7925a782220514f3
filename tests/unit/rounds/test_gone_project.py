"""Detect projects that were deleted in Label Studio, and servers that were emptied or replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.base.settings import Settings
from backend.rounds.gone_project import gone_notice, record_gone
from backend.store.project_record import ProjectRecord, project_root, write_record
from backend.store.project_store import ProjectStore
from tests.unit.labelstudio.project_server import TOKEN, ProjectServer, serving_projects
from tests.unit.store.test_registry import record

FORGET = "`python -m scripts.setup_project --forget 5`"


@pytest.fixture
def server() -> Iterator[ProjectServer]:
    with serving_projects() as own:
        yield own


@pytest.fixture
def settings(tmp_path: Path, server: ProjectServer) -> Settings:
    return Settings.load(
        _env_file=None, model_dir=tmp_path, label_studio_url=server.url, label_studio_api_key=TOKEN
    )


def keep(settings: Settings, project_id: int, title: str) -> ProjectRecord:
    changes = {"title": title, "project_created_at": f"2026-{project_id}"}
    own = record(project_id).model_copy(update=changes)
    write_record(project_root(settings.model_dir, project_id), own)
    return own


def test_a_deleted_project_is_named_with_the_ways_out(
    settings: Settings, server: ProjectServer
) -> None:
    photos, _ = keep(settings, 5, "Photos"), keep(settings, 6, "Birds")
    server.projects = {5: "2026-5", 6: "2026-6"}
    assert gone_notice(settings, photos) == ""
    del server.projects[5]
    assert gone_notice(settings, photos) == (
        'Project 5 ("Photos") is gone from Label Studio, so Tightloop no longer works on it. If it '
        f"was deleted on purpose, run {FORGET}. Otherwise, restore Label Studio's data from a "
        "backup, and Tightloop continues automatically."
    )


def test_only_the_project_is_called_gone_if_label_studio_has_others(
    settings: Settings, server: ProjectServer
) -> None:
    photos = keep(settings, 5, "Photos")
    server.projects = {9: "2026-9"}  # of another team
    assert gone_notice(settings, photos).startswith('Project 5 ("Photos") is gone')


@pytest.mark.parametrize("projects", [{}, {9: "2026-9"}])
def test_a_server_without_any_of_our_projects_was_emptied_or_replaced(
    settings: Settings, server: ProjectServer, projects: dict[int, str]
) -> None:
    photos, _ = keep(settings, 5, "Photos"), keep(settings, 6, "Birds")
    server.projects = projects
    gone = gone_notice(settings, photos)
    assert gone.startswith('Label Studio has no project 5 ("Photos"), and none of Tightloop\'s')
    assert f"LABEL_STUDIO_URL ({server.url}) names another server" in gone
    assert FORGET in gone


def test_another_project_under_the_same_id_does_not_pass_for_ours(
    settings: Settings, server: ProjectServer
) -> None:
    photos = keep(settings, 5, "Photos")
    server.projects = {5: "2027"}
    gone = gone_notice(settings, photos)
    assert gone.startswith('Label Studio has another project in place of project 5 ("Photos").')
    assert FORGET in gone


def test_a_project_that_is_gone_and_back_is_logged_once_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ProjectStore(tmp_path)
    with caplog.at_level("INFO"):
        for gone in ("", "it is gone", "it is gone", "", ""):
            record_gone(store, 5, gone)
            assert store.facts().gone == gone
    assert caplog.messages == ["it is gone", "project 5 is in Label Studio again"]
