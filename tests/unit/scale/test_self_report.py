"""The versions that a machine reports."""

from __future__ import annotations

import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

from backend.scale import self_report


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another package named backend, which this process imports from now on."""
    folder = tmp_path / "backend"
    (folder / "room").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "room/file.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "backend")
    invalidate_caches()
    return folder


def test_every_change_of_a_source_file_is_another_version(package: Path) -> None:
    versions = [self_report.code_version()]
    (package / "room/file.py").write_text("x = 2\n")
    versions.append(self_report.code_version())
    (package / "room/file.py").rename(package / "room/other.py")
    versions.append(self_report.code_version())
    (package / "room/file.py").write_text("x = 2\n")
    versions.append(self_report.code_version())
    assert len(set(versions)) == 4


def test_what_is_no_source_file_is_no_version(package: Path) -> None:
    version = self_report.code_version()
    (package / "__pycache__").mkdir()
    (package / "__pycache__/file.pyc").write_bytes(b"1")
    assert self_report.code_version() == version


def test_a_machine_without_the_packages_reports_no_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "backend")
    found = self_report.versions()
    assert (found["Tightloop"], found["torch"]) == ("", "")
    assert found["Python"].startswith("3.")
