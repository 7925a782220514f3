"""Attach to a project that a team made, and detach from it: nothing but annotations stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.base.errors import LabelConfigError, LabelStudioError, PoolError, SettingsError
from backend.base.labeling import Prediction
from backend.base.settings import Settings
from backend.labelstudio.attached_project import AttachedProject
from backend.labelstudio.attached_setup import AttachedSetup
from backend.labelstudio.incoming import SECRET_HEADER
from backend.queue.training_queue import TrainingQueue
from backend.rounds import ordering
from backend.store.project_record import (
    begin_detaching,
    known_projects,
    project_root,
    read_record,
)
from backend.store.project_store import ProjectStore
from scripts.setup.attach import attach, refresh
from scripts.setup.detach import detach
from tests.conftest import RedisServer
from tests.integration.conftest import Stack
from tests.integration.labelstudio.existing import (
    CONFIG,
    differences,
    export,
    label,
    make_existing,
    png,
    task_ids,
    upload,
)
from tests.integration.labelstudio.receiver import PASSWORD, SECRET, USER, Receiver, receiving

CHOICES = '<Choice value="a"/><Choice value="b"/>'


@pytest.fixture
def settings(
    stack: Stack, tmp_path: Path, redis_server: RedisServer, receiver: Receiver
) -> Settings:
    """Provide the settings of a Tightloop without workers, with an empty model folder."""
    changes = {
        "model_dir": tmp_path / "models",
        "data_dir": tmp_path / "data",
        "redis_url": redis_server.url,
        "backend_url": receiver.url,
        "backend_user": USER,
        "backend_password": PASSWORD,
        "webhook_secret": SECRET,
    }
    given = stack.settings.model_dump(exclude_unset=True) | changes
    given.pop("pool", None)
    return Settings.load(_env_file=None, **given)


@pytest.fixture
def birds(api: httpx.Client) -> Iterator[int]:
    """Provide a team's project with 30 images, of which 6 are labeled."""
    project_id = make_existing(api, n_labeled=6)
    yield project_id
    api.delete(f"/api/projects/{project_id}/").raise_for_status()


def connect_theirs(api: httpx.Client, project_id: int, backend: Receiver) -> None:
    """Give a project what a team may have: a model with predictions, a webhook, texts, a tab."""
    for task_id in task_ids(api, project_id)[6:9]:
        region = {"from_name": "kind", "to_name": "pic", "type": "choices"}
        result = [{**region, "value": {"choices": ["Robin"]}}]
        body = {"task": task_id, "result": result, "score": 0.3, "model_version": "theirs-v2"}
        api.post("/api/predictions/", json=body).raise_for_status()
    ml = {"project": project_id, "url": backend.url, "title": "Theirs", "auth_method": "BASIC_AUTH"}
    ml |= {"basic_auth_user": USER, "basic_auth_pass": PASSWORD}
    api.post("/api/ml/", json=ml).raise_for_status()
    hook = {"project": project_id, "url": "http://127.0.0.1:1/theirs", "headers": {"X-Team": "a"}}
    api.post("/api/webhooks/", json=hook).raise_for_status()
    tab = {"project": project_id, "data": {"title": "Ours", "ordering": ["tasks:id"]}}
    api.post("/api/dm/views/", json=tab).raise_for_status()
    change(api, project_id, sampling="Uniform sampling", description="Our birds")
    change(api, project_id, show_collab_predictions=False)
    change(api, project_id, model_version="theirs-v2")


def change(api: httpx.Client, project_id: int, **fields: Any) -> None:
    api.patch(f"/api/projects/{project_id}/", json=fields).raise_for_status()


def predict(settings: Settings, project_id: int, version: str) -> None:
    """Order five tasks by one of our versions, as the ranker does."""
    token = settings.label_studio_api_key.get_secret_value()
    project = AttachedProject(settings.label_studio_url, token, project_id)
    tasks = [task.task_id for task in project.open_tasks()][-5:]  # none with the team's predictions
    guess = Prediction("Robin", probability=0.9, score=0.2, model_version=version)
    project.import_predictions(dict.fromkeys(tasks, guess))
    project.switch_model_version(version)


@pytest.mark.parametrize("has_theirs", [False, True])
def test_a_project_differs_in_nothing_but_new_annotations_after_detaching(
    settings: Settings, api: httpx.Client, birds: int, has_theirs: bool
) -> None:
    with receiving() as theirs:
        if has_theirs:
            connect_theirs(api, birds, theirs)
        before = export(api, birds)
        assert attach(settings, str(birds), "given") == birds
        during = export(api, birds)
        predict(settings, birds, "r0001")
        predict(settings, birds, "r0002h01")
        labeled = task_ids(api, birds)[20]
        annotation_id = label(api, labeled, "Robin")
        assert detach(settings, "") == birds
        after = export(api, birds)

    assert during["settings"]["sampling"] == "Uncertainty sampling"
    assert during["settings"]["show_collab_predictions"]
    assert len(during["webhooks"]) == len(before["webhooks"]) + 1
    assert len(during["backends"]) == len(before["backends"]) + 1
    [new] = after["tasks"].pop(labeled)["annotations"]
    assert new["id"] == annotation_id
    del before["tasks"][labeled]
    assert not (found := differences(before, after)), "\n".join(found)
    assert known_projects(settings.model_dir) == []


def test_a_dry_run_and_a_refusal_change_nothing(
    settings: Settings, api: httpx.Client, birds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = export(api, birds)
    attach(settings, "Birds", "dry run")
    printed = capsys.readouterr().out
    assert '"Birds" (project' in printed
    assert "30 tasks, 24 without an annotation" in printed
    assert "6 tasks labeled by 1 person" in printed
    assert "Sparrow 3, Robin 3" in printed
    assert "30 uploaded to Label Studio" in printed
    with pytest.raises(SettingsError, match="--yes"):  # a test has no terminal
        attach(settings, str(birds), "ask")
    assert differences(before, export(api, birds)) == []
    assert not settings.model_dir.exists()


def test_attaching_records_the_project_and_asks_for_training_at_once(
    settings: Settings, api: httpx.Client, birds: int
) -> None:
    attach(settings, str(birds), "given")
    root = project_root(settings.model_dir, birds)
    record = read_record(root)
    assert record is not None
    assert record.is_attached
    assert (record.classes, record.validation, record.seed_labels) == (
        ("Sparrow", "Robin"),
        "people",
        0,
    )
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    assert [job["job"] for job in queue.jobs(birds)] == ["retrain"]
    # Ten images are asked, and the team's other tasks have no prediction.
    predicted = [task for task in export(api, birds)["tasks"].values() if task["predictions"]]
    assert len(predicted) == settings.batch_size
    assert ProjectStore(root).n_open() == settings.batch_size


def test_attaching_twice_changes_nothing_but_restores_the_order(
    settings: Settings, api: httpx.Client, birds: int
) -> None:
    before = export(api, birds)
    attach(settings, str(birds), "given")
    change(api, birds, sampling="Sequential sampling")
    attach(settings, str(birds), "given")
    during = export(api, birds)
    assert during["settings"]["sampling"] == "Uncertainty sampling"
    assert len(during["webhooks"]) == len(during["backends"]) == 1
    detach(settings, str(birds))
    assert differences(before, export(api, birds)) == []


def test_settings_that_the_team_changes_later_stay(
    settings: Settings, api: httpx.Client, birds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    attach(settings, str(birds), "given")
    change(api, birds, sampling="Uniform sampling", description="Counted by Ada")
    detach(settings, str(birds))
    now = export(api, birds)["settings"]
    assert (now["sampling"], now["description"]) == ("Uniform sampling", "Counted by Ada")
    printed = capsys.readouterr().out
    assert "the order of the tasks (sampling) was not restored, because the team" in printed


class Killed(BaseException):
    """Stands for a kill -9 at this point."""


@pytest.mark.parametrize("step", ["connect", "configure"])
def test_a_kill_while_attaching_is_mended_by_running_it_again(
    settings: Settings, api: httpx.Client, birds: int, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export(api, birds)
    with monkeypatch.context() as patch:
        patch.setattr(AttachedSetup, step, kill)
        with pytest.raises(Killed):
            attach(settings, str(birds), "given")
    attach(settings, str(birds), "given")
    assert export(api, birds)["settings"]["sampling"] == "Uncertainty sampling"
    detach(settings, "")
    assert differences(before, export(api, birds)) == []


def test_attaching_again_that_was_killed_is_completed_at_the_next_start(
    settings: Settings, api: httpx.Client, birds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project_root(settings.model_dir, birds)
    attach(settings, str(birds), "given")
    ProjectStore(root).record(has_ordered=True)
    detach(settings, "")
    with monkeypatch.context() as patch:
        patch.setattr(AttachedSetup, "configure", kill)
        with pytest.raises(Killed):
            attach(settings, str(birds), "given")
    record = read_record(root)
    assert record is not None
    refresh(settings, record)
    assert export(api, birds)["settings"]["sampling"] == "Uncertainty sampling"
    detach(settings, "")


@pytest.mark.parametrize("step", ["disconnect", "delete_our_predictions", "_restore_version"])
def test_a_kill_while_detaching_is_mended_by_running_it_again(
    settings: Settings, api: httpx.Client, birds: int, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export(api, birds)
    attach(settings, str(birds), "given")
    with monkeypatch.context() as patch:
        patch.setattr(AttachedSetup, step, kill)
        with pytest.raises(Killed):
            detach(settings, "")
    assert known_projects(settings.model_dir) == []
    detach(settings, "")
    assert differences(before, export(api, birds)) == []
    with pytest.raises(SettingsError, match="nothing to detach"):
        detach(settings, "")


def kill(*_: object, **__: object) -> None:
    raise Killed


def test_attaching_after_a_half_finished_detaching_keeps_the_former_settings(
    settings: Settings, api: httpx.Client, birds: int
) -> None:
    before = export(api, birds)
    attach(settings, str(birds), "given")
    begin_detaching(project_root(settings.model_dir, birds))  # and killed before anything else
    attach(settings, str(birds), "given")
    detach(settings, "")
    assert differences(before, export(api, birds)) == []


def test_tasks_that_came_and_went_while_detached_are_known_after_attaching_again(
    settings: Settings, api: httpx.Client, birds: int
) -> None:
    """The number of tasks does not change, so it cannot reveal the changes."""
    attach(settings, str(birds), "given")
    detach(settings, "")
    gone = task_ids(api, birds)[-3:]
    for task_id in gone:
        api.delete(f"/api/tasks/{task_id}/").raise_for_status()
    upload(api, birds, [png(100 + number) for number in range(3)])
    attach(settings, str(birds), "given")
    store = ProjectStore(project_root(settings.model_dir, birds))
    assert [task.task_id for task in store.listed_tasks()] == task_ids(api, birds)


def test_if_label_studio_cannot_reach_the_backend_the_project_is_put_back(
    settings: Settings, api: httpx.Client, birds: int
) -> None:
    before = export(api, birds)
    unreachable = settings.model_copy(update={"backend_url": "http://127.0.0.1:1"})
    with pytest.raises(LabelStudioError, match="BACKEND_URL"):
        attach(unreachable, str(birds), "given")
    assert differences(before, export(api, birds)) == []
    assert known_projects(settings.model_dir) == []


def test_a_job_that_still_runs_writes_nothing_after_detaching(
    settings: Settings, api: httpx.Client, birds: int
) -> None:
    from backend.base.errors import DetachedError
    from backend.labelstudio.attached_project import open_project
    from backend.rounds.loop import open_loop

    before = export(api, birds)
    attach(settings, str(birds), "given")
    loop = open_loop(settings, birds, open_project(settings, birds))
    detach(settings, "")
    with pytest.raises(DetachedError, match=f"detached from project {birds}"):
        ordering.refresh_predictions(loop)
    assert differences(before, export(api, birds)) == []


UNSUPPORTED = {
    "2 Image and 1 Choices": CONFIG.replace("<Image", '<Image name="b" value="$photo"/><Image'),
    "1 Image and 2 Choices": CONFIG.replace(
        "<Choices", f'<Choices name="b" toName="pic">{CHOICES}</Choices><Choices'
    ),
    'choice="multiple"': CONFIG.replace("single-radio", "multiple"),
    "RectangleLabels": '<View><Image name="pic" value="$photo"/>'
    '<RectangleLabels name="kind" toName="pic"><Label value="a"/></RectangleLabels></View>',
    "Text": '<View><Text name="pic" value="$photo"/>'
    f'<Choices name="kind" toName="pic">{CHOICES}</Choices></View>',
}


@pytest.mark.parametrize("complaint", UNSUPPORTED)
def test_what_is_not_supported_is_reported_before_anything_changes(
    settings: Settings, api: httpx.Client, complaint: str
) -> None:
    project_id = make_existing(api, "Not for us", 10)
    change(api, project_id, label_config=UNSUPPORTED[complaint])
    try:
        with pytest.raises(LabelConfigError, match=complaint) as refused:
            attach(settings, str(project_id), "given")
        assert "only single-choice image classification" in str(refused.value)
        assert not settings.model_dir.exists()
    finally:
        api.delete(f"/api/projects/{project_id}/").raise_for_status()


def test_a_project_of_another_tightloop_is_refused(
    settings: Settings, api: httpx.Client, birds: int
) -> None:
    attach(settings, str(birds), "given")
    with receiving() as second:
        changes = {"model_dir": settings.data_dir / "other", "backend_url": second.url}
        other = settings.model_copy(update=changes | {"webhook_secret": _secret("another")})
        with pytest.raises(SettingsError, match="another Tightloop is attached"):
            attach(other, str(birds), "given")
    assert SECRET_HEADER in export(api, birds)["webhooks"][0]["headers"]


def test_our_own_project_and_a_missing_project_are_refused(
    settings: Settings, stack: Stack, birds: int, api: httpx.Client
) -> None:
    own = settings.model_copy(update={"model_dir": stack.settings.model_dir})
    with pytest.raises(SettingsError, match="itself created the project"):
        attach(own, str(stack.info["project_id"]), "given")
    with pytest.raises(SettingsError, match=f'{birds} \\("Birds"\\)'):
        attach(settings, "Bird", "given")
    settings.model_dir.mkdir()
    with pytest.raises(SettingsError, match="nothing to detach"):
        detach(settings, "")
    twin = make_existing(api, "Birds", 1)
    try:
        with pytest.raises(SettingsError, match=f"ids {birds}, {twin}"):
            attach(settings, "Birds", "given")
    finally:
        api.delete(f"/api/projects/{twin}/").raise_for_status()


def test_images_that_cannot_be_shown_are_counted_and_do_not_stop_attaching(
    settings: Settings, api: httpx.Client, birds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(api, birds, [b"not an image"])
    attach(settings, str(birds), "given")
    printed = capsys.readouterr().out
    assert "1 of 31 sampled images cannot be read" in printed
    assert "base64" not in printed
    detach(settings, "")


def test_a_project_with_too_few_usable_images_is_refused(
    settings: Settings, api: httpx.Client
) -> None:
    project_id = make_existing(api, "Few", 3)
    try:
        with pytest.raises(PoolError, match=r"3 of 3 tasks .* at least 10") as refused:
            attach(settings, str(project_id), "given")
        assert '"photo"' in str(refused.value)
    finally:
        api.delete(f"/api/projects/{project_id}/").raise_for_status()


def test_a_wrong_token_is_reported(settings: Settings) -> None:
    wrong = settings.model_copy(update={"label_studio_api_key": _secret("0" * 40)})
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        attach(wrong, "1", "given")


def _secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)
