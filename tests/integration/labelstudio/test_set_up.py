"""Run set-up again, on foreign projects and with custom label configs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from backend.base.errors import (
    LabelConfigError,
    ModelFolderError,
    SettingsError,
    TightloopError,
)
from backend.base.settings import Settings
from backend.images.index import Index
from backend.labelstudio.client import create_project, find_project
from backend.labelstudio.former_label_configs import former_label_configs
from backend.labelstudio.label_config import label_config_xml, parse_label_config
from backend.labelstudio.project_setup import ProjectSetup
from backend.store.project_record import (
    POOL_INDEX,
    ProjectRecord,
    forget_record,
    known_projects,
    project_root,
    read_former,
    read_record,
    write_record,
)
from scripts.setup.checks import make_plan
from scripts.setup.opening import OpenedProject, Opening
from scripts.setup.request import Request
from scripts.setup.steps import set_up
from tests.integration.conftest import Stack, delete_project
from tests.integration.labelstudio.conftest import TITLE
from tests.integration.labelstudio.existing import differences, export, make_existing
from tests.integration.labelstudio.receiver import USER, backends, receiving, webhooks
from tests.unit.images.image_folders import save_image

UNKNOWN_IMAGE = '<Labels name="x" toName="nothing"><Label value="y"/></Labels>'


def test_setting_up_again_changes_nothing(stack: Stack, api: httpx.Client) -> None:
    def state() -> Sequence[Any]:
        [project_id] = known_projects(stack.settings.model_dir)
        project = ProjectSetup(str(api.base_url).rstrip("/"), _token(stack), project_id)
        return (
            project_id,
            read_record(project_root(stack.settings.model_dir, project_id)),
            [hook["id"] for hook in webhooks(api, project)],
            [backend["id"] for backend in backends(api, project)],
            [p["title"] for p in api.get("/api/projects/").json()["results"]],
        )

    before = state()
    again = stack.run("scripts.setup_project")
    assert again.returncode == 0, again.stderr
    assert "nothing changed" in again.stdout
    assert state() == before
    assert len(before[2]) == len(before[3]) == 1


@pytest.fixture
def plain(stack: Stack) -> Stack:
    """The same stack for a person who gives none of the settings that it was set up with."""
    of_project = {"PROJECT_TITLE", "POOL", "WEIGHTS", "SEED", "SEED_LABELS"}
    kept = {k: v for k, v in stack.settings_given.items() if k not in of_project}
    return replace(stack, settings_given=kept)


def test_a_plain_set_up_goes_on_with_the_project_and_refuses_what_contradicts_it(
    stack: Stack, plain: Stack, api: httpx.Client
) -> None:
    def titles() -> list[str]:
        return [project["title"] for project in api.get("/api/projects/").json()["results"]]

    before = titles()
    again = plain.run("scripts.setup_project", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["project_id"] == stack.info["project_id"]
    refused = plain.run("scripts.setup_project", "--seed-labels", "61")
    assert refused.returncode == 1
    assert "SEED_LABELS=61 contradicts SEED_LABELS=60" in refused.stderr
    assert titles() == before


def test_a_project_keeps_the_strategy_that_it_was_set_up_with(stack: Stack) -> None:
    """A later default, or an earlier release that recorded none, does not change the strategy."""
    root = project_root(stack.settings.model_dir, stack.info["project_id"])
    record = read_record(root)
    assert record is not None
    assert record.strategy == stack.settings.strategy
    other = replace(stack, settings_given={**stack.settings_given, "STRATEGY": "entropy"})
    for strategy in ("margin", None):
        before = record.model_copy(update={"strategy": strategy})
        write_record(root, before)
        again = other.run("scripts.setup_project")
        assert again.returncode == 0, again.stderr
        assert read_record(root) == before
    write_record(root, record)


def test_a_second_project_is_set_up_beside_the_first_and_keeps_its_images(
    stack: Stack, plain: Stack, tmp_path: Path, api: httpx.Client
) -> None:
    command = ("scripts.setup_project", "--title", "Second under test", "--json")
    created = plain.run(*command, "--pool", "digits", "--seed-labels", "20")
    assert created.returncode == 0, created.stderr
    first, second = json.loads(created.stdout)["projects"]
    root = project_root(stack.settings.model_dir, second["project_id"])
    try:
        assert first["project_id"] == stack.info["project_id"]
        project = ProjectSetup(str(api.base_url).rstrip("/"), _token(stack), second["project_id"])
        assert project.counts().annotations == 20
        assert len(webhooks(api, project)) == len(backends(api, project)) == 1
        for printed in (plain.run("scripts.status").stdout, plain.up()):
            assert first["project_url"] in printed
            assert second["project_url"] in printed

        for digit in range(10):
            for number in range(2):
                save_image(tmp_path / f"train/{digit}/{number}.png", (digit, number, 0))
        other = plain.run(*command, "--pool", str(tmp_path), "--change")
        assert other.returncode == 1
        assert re.search(r"lacks (\d+) of the \1 images that \"Second under test\"", other.stderr)
        kept = read_record(root)
        assert kept is not None
        assert (kept.pool, kept.seed_labels) == ("digits", 20)
    finally:
        delete_project(stack, second["project_id"])


def test_a_project_that_an_earlier_release_set_up_without_validation_gets_a_sample(
    stack: Stack, plain: Stack, tmp_path: Path, api: httpx.Client
) -> None:
    for number in range(50):
        save_image(tmp_path / f"photos/{number}.png", (9, 9, number))
    title = "Photos under test"
    options = ("--title", title, "--pool", str(tmp_path / "photos"), "--classes", "cat,dog")
    created = plain.run("scripts.setup_project", *options, "--seed-labels", "0", "--json")
    assert created.returncode == 0, created.stderr
    project_id = json.loads(created.stdout)["project_id"]
    root = project_root(stack.settings.model_dir, project_id)
    try:
        assert "validation 7 images that annotators label (10 held out)" in created.stderr
        kept = read_record(root)
        index = Index.read(root / POOL_INDEX)
        assert kept is not None
        assert index is not None
        assert (kept.validation, kept.validation_labels) == ("people", 200)

        not_recorded = dict.fromkeys(("validation", "validation_labels", "validation_images"))
        write_record(root, kept.model_copy(update=not_recorded))
        no_sample = index.table.set_column(
            index.table.schema.get_field_index("split"), "split", pa.array(["pool"] * 50)
        )
        replace(index, table=no_sample, sample=None).write(root / POOL_INDEX)
        project = ProjectSetup(str(api.base_url).rstrip("/"), _token(stack), project_id)
        queried = project.image_ids()
        again = plain.run("scripts.setup_project", "--title", title)
        assert again.returncode == 0, again.stderr
        assert "images that annotators label" in again.stdout
        drawn = Index.read(root / POOL_INDEX)
        assert drawn is not None
        held_out = set(drawn.image_ids[drawn.splits == "validation"])
        assert len(held_out) == (50 - len(queried)) // 5
        assert not held_out & queried
        found = {"validation_images": len(held_out)}
        assert read_record(root) == kept.model_copy(update=found)
        assert "nothing changed" in plain.run("scripts.setup_project", "--title", title).stdout
    finally:
        delete_project(stack, project_id)


def test_a_project_that_cannot_be_recorded_is_not_left_behind(
    stack: Stack, tmp_path: Path, project: ProjectSetup, credentials: tuple[str, str]
) -> None:
    foreign = ProjectRecord(
        project_id=project.project_id + 1,  # the id of the next project
        title="Elsewhere",
        label_studio_url="http://elsewhere",
        project_created_at="2001-01-01T00:00:00Z",
        pool="digits",
        weights="none",
        seed=0,
        classes=("cat", "dog"),
    )
    write_record(project_root(tmp_path, foreign.project_id), foreign)
    title = "Half-made under test"
    settings = _settings(stack, model_dir=tmp_path, project_title=title, pool="digits")
    with pytest.raises(ModelFolderError, match="another Label Studio"):
        start(settings)
    assert find_project(*credentials, titles=[title]) is None


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_the_model_folder_of_another_label_studio_is_left_unchanged(
    stack: Stack, tmp_path: Path, project: ProjectSetup, is_forgotten: bool
) -> None:
    settings = _settings(stack, model_dir=tmp_path, project_title=TITLE, pool="digits")
    root = project_root(tmp_path, project.project_id)
    record = ProjectRecord(
        project_id=project.project_id,
        title=TITLE,
        label_studio_url="http://elsewhere",
        project_created_at="2001-01-01T00:00:00Z",
        pool="digits",
        weights="none",
        seed=0,
        classes=("cat", "dog"),
    )
    write_record(root, record)
    if is_forgotten:
        forget_record(root)
    with pytest.raises(ModelFolderError, match="move that folder elsewhere"):
        start(settings)
    assert (read_record(root) or read_former(root)) == record


def test_a_project_whose_classes_do_not_match_the_pool_is_left_unchanged(
    stack: Stack, tmp_path: Path, project: ProjectSetup, api: httpx.Client
) -> None:
    settings = _settings(stack, model_dir=tmp_path, project_title=TITLE, pool="digits")
    with pytest.raises(LabelConfigError, match=r"\(cat, dog\) do not match .*\(0, 1, 2"):
        start(settings)
    assert known_projects(tmp_path) == []
    assert project.tasks() == []
    assert webhooks(api, project) == backends(api, project) == []


def test_a_teams_project_of_the_same_title_is_left_unchanged(
    stack: Stack, tmp_path: Path, api: httpx.Client
) -> None:
    title = "Team under test"
    project_id = make_existing(api, title, n_images=3, n_labeled=1)
    before = export(api, project_id)
    for number in range(12):
        save_image(tmp_path / f"photos/{number}.png", (number, 0, 0))
    settings = _settings(
        stack,
        model_dir=tmp_path / "models",
        project_title=title,
        pool=str(tmp_path / "photos"),
        classes=("Sparrow", "Robin"),
        seed_labels=0,
    )
    try:
        with pytest.raises(SettingsError, match=f"--attach {project_id}`"):
            start(settings)
        assert differences(before, export(api, project_id)) == []
        assert known_projects(settings.model_dir) == []
    finally:
        api.delete(f"/api/projects/{project_id}/").raise_for_status()


def test_the_choice_of_auto_is_kept_with_its_notice(
    stack: Stack, tmp_path: Path, credentials: tuple[str, str], api: httpx.Client
) -> None:
    title = "Auto under test (digits)"
    classes = [str(digit) for digit in range(10)]
    project_id = create_project(*credentials, title=title, label_config=label_config_xml(classes))
    root = project_root(tmp_path, project_id)
    record = ProjectRecord(
        project_id=project_id,
        title=title,
        label_studio_url=credentials[0],
        project_created_at=ProjectSetup(*credentials, project_id).created_at(),
        pool="digits",
        weights="none",
        seed=0,
        classes=tuple(classes),
        pool_notice="no network",
    )
    write_record(root, record)
    settings = _settings(
        stack, model_dir=tmp_path, project_title=title, pool="auto", weights="auto", seed_labels=0
    )
    with receiving() as backend:  # the stack's own backend uses another model folder
        settings = settings.model_copy(update={"backend_url": backend.url, "backend_user": USER})
        backend.password = settings.backend_password.get_secret_value()
        assert start(settings) == project_id
    kept = read_record(root)
    api.delete(f"/api/projects/{project_id}/").raise_for_status()
    given = {"seed_labels": 0, "image_size": settings.image_size}
    assert kept == record.model_copy(update=given)


def _config_xml(stack: Stack) -> str:
    project_id = stack.info["project_id"]
    url = stack.settings.label_studio_url
    return ProjectSetup(url, _token(stack), project_id).label_config_xml()


def test_hints_follow_their_setting_and_are_left_out_with_blind(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _config_xml(stack)
    start(_settings(stack, hints=True))
    assert '<Header value="$hint"' in _config_xml(stack)
    start(_settings(stack, hints=True, blind=True))
    assert "so HINTS=true has no effect" in capsys.readouterr().out
    assert _config_xml(stack) == before
    start(_settings(stack))
    assert _config_xml(stack) == before


def test_a_label_config_of_an_earlier_release_is_brought_up_to_date(stack: Stack) -> None:
    before = _config_xml(stack)
    choices = parse_label_config(before).choices
    earlier = next(xml for xml in former_label_configs(choices) if 'smoothing="false"' in xml)
    assert earlier != before
    url, project_id = stack.settings.label_studio_url, stack.info["project_id"]
    ProjectSetup(url, _token(stack), project_id).change_label_config(earlier)
    start(_settings(stack))
    assert _config_xml(stack) == before


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Write a label config to a file."""

    def write(xml: str) -> Path:
        (tmp_path / "my.xml").write_text(xml)
        return tmp_path / "my.xml"

    return write


def test_a_custom_label_config_is_used_and_then_left_unchanged(
    stack: Stack, capsys: pytest.CaptureFixture[str], written: Callable[[str], Path]
) -> None:
    before = _config_xml(stack)
    own = before.replace("flex: 1", "flex: 2")
    start(_settings(stack, label_config=written(own)))
    start(_settings(stack, hints=True))
    assert 'add <Header value="$hint"/>' in capsys.readouterr().out
    assert _config_xml(stack) == own

    first = parse_label_config(own).choices[0]
    for wrong, complaint in (
        (own.replace('name="label"', 'name="kind"'), 'must have name="label"'),
        (own.replace(f'"{first}"', f'" {first}"'), "must spell its choices"),
        (own.replace("</View>", f"</View>{UNKNOWN_IMAGE}", 1), "nothing"),
    ):
        with pytest.raises(TightloopError, match=complaint):
            start(_settings(stack, label_config=written(wrong)))
        assert _config_xml(stack) == own
    start(_settings(stack, label_config=written(before)))
    assert _config_xml(stack) == before


def test_a_new_project_is_created_only_with_a_valid_custom_label_config(
    stack: Stack,
    tmp_path: Path,
    credentials: tuple[str, str],
    api: httpx.Client,
    written: Callable[[str], Path],
) -> None:
    title = "Own label config under test"
    settings = _settings(stack, model_dir=tmp_path, project_title=title, pool="digits")
    own = label_config_xml([str(digit) for digit in range(10)]).replace("400px", "300px")
    refused = own.replace("</View>", f"</View>{UNKNOWN_IMAGE}", 1)
    for wrong in (own.replace("$image", "$picture"), refused):
        with pytest.raises(TightloopError):
            open_project(settings.model_copy(update={"label_config": written(wrong)}))
    assert find_project(*credentials, titles=[title]) is None
    opened = open_project(settings.model_copy(update={"label_config": written(own)}))
    assert opened.has_changed
    assert opened.record.label_config == "own"
    project = opened.project
    assert project.label_config_xml() == own.strip()
    api.delete(f"/api/projects/{project.project_id}/").raise_for_status()


def test_set_up_names_a_label_config_file_that_does_not_exist(stack: Stack) -> None:
    failed = stack.run("scripts.setup_project", "--label-config", "missing.xml")
    assert failed.returncode == 1
    assert "missing.xml cannot be read" in failed.stderr


def start(settings: Settings) -> int:
    return set_up(Request.from_settings(settings))


def open_project(settings: Settings) -> OpenedProject:
    return Opening(settings, make_plan(Request.from_settings(settings))).open()


def _settings(stack: Stack, **changes: Any) -> Settings:
    return stack.settings.model_copy(update=changes)


def _token(stack: Stack) -> str:
    return stack.settings.label_studio_api_key.get_secret_value()
