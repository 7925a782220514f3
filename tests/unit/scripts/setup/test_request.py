"""Which settings count as given for the project that a command names."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.errors import SettingsError
from backend.base.settings import Settings
from scripts.setup.request import Request


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, field in Settings.model_fields.items():
        monkeypatch.delenv((field.alias or name).upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_a_title_the_first_project_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_LABELS", "30")
    request = Request.from_options({})
    assert request.title is None
    assert (request.value("seed_labels"), request.value("pool")) == (30, None)


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT_TITLE", "Photos")
    monkeypatch.setenv("POOL", "/photos")
    request = Request.from_options({"pool": "/moved", "seed_labels": "5"}, may_change=True)
    assert request.title == "Photos"
    assert (request.value("pool"), request.value("seed_labels")) == ("/moved", 5)


def test_what_the_environment_gives_is_not_for_a_project_of_another_title(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POOL", "/photos")
    monkeypatch.setenv("CLASSES", "cat,dog")
    request = Request.from_options({"project_title": "Birds", "pool": "/birds"})
    assert request.title == "Birds"
    assert (request.value("pool"), request.value("classes")) == ("/birds", None)
    same = Request.from_options({"project_title": "Tightloop"})  # the environment's title
    assert same.value("classes") == ("cat", "dog")


def test_a_bad_option_is_named_like_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"CLASSES='cat': must name at least two"):
        Request.from_options({"project_title": "Birds", "classes": "cat"})


def test_an_existing_project_needs_its_id_and_decides_its_classes() -> None:
    with pytest.raises(SettingsError, match="POOL=labelstudio needs PROJECT_ID"):
        request_for(pool="labelstudio").existing_project()
    with pytest.raises(SettingsError, match="CLASSES cannot be set with POOL=labelstudio"):
        request_for(pool="labelstudio", project_id=12, classes="a,b").existing_project()
    assert request_for(pool="labelstudio", project_id=12).existing_project() == 12


def request_for(**settings: object) -> Request:
    return Request.from_settings(Settings.load(_env_file=None, **settings))
