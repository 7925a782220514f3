"""The projects that are set up, and the one that a title means."""

from __future__ import annotations

from pathlib import Path

from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from scripts.setup.projects import find_record, project_links, titles_of
from tests.unit.store.test_registry import record


def keep(model_dir: Path, project_id: int, title: str) -> None:
    kept = record(project_id).model_copy(update={"title": title})
    write_record(project_root(model_dir, project_id), kept)


def found(model_dir: Path, title: str | None) -> int | None:
    kept = find_record(model_dir, title)
    return kept.project_id if kept else None


def test_without_a_title_the_first_project_is_found(tmp_path: Path) -> None:
    assert found(tmp_path / "no models yet", None) is None
    keep(tmp_path, 9, "Birds")
    keep(tmp_path, 10, "Photos")
    assert found(tmp_path, None) == 9
    assert (found(tmp_path, "Photos"), found(tmp_path, "photos")) == (10, None)


def test_a_project_that_is_gone_from_label_studio_is_not_the_first(tmp_path: Path) -> None:
    keep(tmp_path, 9, "Birds")
    keep(tmp_path, 10, "Photos")
    ProjectStore(project_root(tmp_path, 9)).record(gone="it is gone")
    assert found(tmp_path, None) == 10
    assert found(tmp_path, "Birds") == 9
    ProjectStore(project_root(tmp_path, 10)).record(gone="it is gone")
    assert found(tmp_path, None) == 9


def test_a_title_also_finds_the_project_that_fell_back_to_the_digits(tmp_path: Path) -> None:
    keep(tmp_path, 3, titles_of("Tightloop")[1])
    assert found(tmp_path, "Tightloop") == 3
    assert titles_of("T" * 45)[1] == "T" * 41 + " (digits)"


def test_a_project_that_was_created_again_counts_once(tmp_path: Path) -> None:
    keep(tmp_path, 1, "Birds")
    keep(tmp_path, 2, "Photos")
    keep(tmp_path, 5, "Birds")
    assert found(tmp_path, None) == 5
    assert project_links(tmp_path, "http://here") == [
        {"project_id": 5, "title": "Birds", "project_url": "http://here/projects/5/data"},
        {"project_id": 2, "title": "Photos", "project_url": "http://here/projects/2/data"},
    ]
