"""Forget a project that was deleted in Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.base.errors import DetachedError, SettingsError
from backend.base.settings import Settings
from backend.labelstudio.attached_project import open_project
from backend.store.project_record import (
    begin_detaching,
    end_detaching,
    known_projects,
    project_root,
    read_former,
    read_record,
    write_record,
)
from scripts.setup.attach import refresh
from scripts.setup.forget import forget
from tests.unit.labelstudio.project_server import TOKEN, ProjectServer, serving_projects
from tests.unit.rounds.conftest import attached_record
from tests.unit.store.test_registry import record


@pytest.fixture
def server() -> Iterator[ProjectServer]:
    """A Label Studio that has project 6, but no longer project 5."""
    with serving_projects() as own:
        own.projects = {6: "2026-01-01T00:00:00Z"}
        yield own


@pytest.fixture
def settings(tmp_path: Path, server: ProjectServer) -> Settings:
    for project_id in (5, 6):
        changes = {"project_created_at": "2026-01-01T00:00:00Z"}
        own = record(project_id).model_copy(update=changes)
        write_record(project_root(tmp_path, project_id), own)
    return Settings.load(
        _env_file=None, model_dir=tmp_path, label_studio_url=server.url, label_studio_api_key=TOKEN
    )


def test_a_forgotten_project_is_no_longer_listed_and_keeps_its_files(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project_root(settings.model_dir, 5)
    before = read_record(root)
    (root / "r0001").mkdir()
    assert forget(settings, 5, "given") == 5
    assert known_projects(settings.model_dir) == [6]
    assert read_former(root) == before
    assert (root / "r0001").exists()
    assert f"You may move or delete {root}" in capsys.readouterr().out
    with pytest.raises(DetachedError, match="forgot project 5"):  # as a running job does
        open_project(settings, 5)


def test_forgetting_twice_says_where_the_files_are(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    forget(settings, 5, "given")
    capsys.readouterr()
    assert forget(settings, 5, "given") == 5
    assert str(project_root(settings.model_dir, 5)) in capsys.readouterr().out


def test_a_dry_run_and_a_missing_terminal_forget_nothing(settings: Settings) -> None:
    forget(settings, 5, "dry run")
    with pytest.raises(SettingsError, match="add --yes"):
        forget(settings, 5, "ask")
    assert known_projects(settings.model_dir) == [5, 6]


def test_a_project_that_label_studio_still_has_is_not_forgotten(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"still exists.*delete it in Label Studio first"):
        forget(settings, 6, "given")
    assert known_projects(settings.model_dir) == [5, 6]


def test_for_an_attached_project_the_message_names_detach(
    settings: Settings, server: ProjectServer, capsys: pytest.CaptureFixture[str]
) -> None:
    own = attached_record(("a", "b")).model_copy(update={"project_id": 12})
    root = project_root(settings.model_dir, 12)
    write_record(root, own)
    server.projects[12] = own.project_created_at
    with pytest.raises(SettingsError, match=r"scripts\.setup_project --detach 12"):
        forget(settings, 12, "given")
    begin_detaching(root)
    end_detaching(root)
    forget(settings, 12, "given")
    assert f"no longer works on project 12. Its files are kept in {root}" in capsys.readouterr().out


def test_an_unknown_project_is_refused_with_the_known_ones(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"has no project 7\. .*: 5, 6$"):
        forget(settings, 7, "given")


def test_set_up_reports_that_an_attached_project_is_gone_and_continues(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make up` must not fail, because --forget needs a running Label Studio."""
    own = attached_record(("a", "b")).model_copy(update={"project_id": 12})
    write_record(project_root(settings.model_dir, 12), own)
    refresh(settings, own)
    printed = capsys.readouterr().out
    assert 'Project 12 ("Birds") is gone from Label Studio' in printed
    assert "is connected" not in printed
