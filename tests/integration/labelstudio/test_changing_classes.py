"""Change the classes of a project in Label Studio while its rounds go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from backend.base.errors import LabelConfigError
from backend.base.labeling import NewTask
from backend.base.settings import Settings
from backend.images.known_labels import seed_labels, true_labels
from backend.labelstudio.client import create_project
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.project_setup import ProjectSetup
from backend.network.training import Recipe
from backend.rounds import batches, observe, rescan, rounds
from backend.rounds.classes import SAME_VALIDATION
from backend.rounds.loop import Loop, open_loop
from backend.store.project_record import ProjectRecord, project_root, write_record
from backend.store.version_meta import Meta
from scripts.setup.checks import make_plan
from scripts.setup.opening import OpenedProject, Opening
from scripts.setup.rename import rename
from scripts.setup.request import Request
from tests.integration.labelstudio.annotating import annotate
from tests.unit.images.image_folders import make_folder, save_image

DIGITS = tuple("0123456789")
TITLE = "Changing classes"
FAST = Recipe(image_size=32, batch_size=16, min_steps=12, epochs=1)


@pytest.fixture
def settings(tmp_path: Path, credentials: tuple[str, str]) -> Settings:
    url, token = credentials
    return Settings.load(
        _env_file=None,
        label_studio_url=url,
        label_studio_api_key=token,
        model_dir=tmp_path / "models",
        data_dir=tmp_path / "data",
        device="cpu",
        batch_size=10,
        strategy="margin",
    )


@pytest.fixture
def project(
    settings: Settings, credentials: tuple[str, str], api: httpx.Client
) -> Iterator[ProjectSetup]:
    """Provide a project over the digits that is set up, without any task."""
    config = label_config_xml(DIGITS)
    project_id = create_project(*credentials, title=TITLE, label_config=config)
    project = ProjectSetup(*credentials, project_id)
    record = ProjectRecord(
        project_id=project_id,
        title=TITLE,
        label_studio_url=settings.label_studio_url,
        project_created_at=project.created_at(),
        pool="digits",
        weights="none",
        image_size=32,
        seed=0,
        classes=DIGITS,
        validation="known",
    )
    write_record(project_root(settings.model_dir, project_id), record)
    yield project
    api.delete(f"/api/projects/{project_id}/").raise_for_status()


@pytest.fixture
def reopen(settings: Settings, project: ProjectSetup) -> Callable[[], Loop]:
    """Return a function that opens the loop as each job does."""
    return lambda: reopened(settings, project.project_id)


@pytest.fixture
def animals(settings: Settings, tmp_path: Path) -> Settings:
    """Return the settings of a project over class folders with cats and dogs."""
    pool = make_folder(tmp_path / "animals")
    return settings.model_copy(update={"project_title": f"{TITLE}: folders", "pool": str(pool)})


def reopened(settings: Settings, project_id: int) -> Loop:
    token = settings.label_studio_api_key.get_secret_value()
    project = LabelStudioProject(settings.label_studio_url, token, project_id)
    return replace(open_loop(settings, project_id, project), recipe=FAST)


def set_up(settings: Settings) -> OpenedProject:
    return Opening(settings, make_plan(Request.from_settings(settings))).open()


def change_choices(api: httpx.Client, project: ProjectSetup, *choices: str) -> None:
    """Write a label config as a person does; "Ring=ring" is shown as Ring and has an alias."""
    pairs = [choice.partition("=") for choice in choices]
    tags = "".join(f'<Choice value="{value}" alias="{a or value}"/>' for value, _, a in pairs)
    xml = (
        '<View><Image name="image" value="$image"/>'
        f'<Choices name="label" toName="image">{tags}</Choices></View>'
    )
    path = f"/api/projects/{project.project_id}/"
    api.patch(path, json={"label_config": xml}).raise_for_status()
    project._label_config = None


def train(loop: Loop) -> Meta:
    meta = rounds.train_round(loop, is_forced=False, progress=lambda *_: None)
    assert meta is not None
    return meta


def import_seeds(loop: Loop, count: int = 40) -> None:
    seeds = seed_labels(loop.pool, count, 0)
    data = {i: {"image": "data:image/png;base64,", "image_id": i} for i in seeds}
    loop.project.import_tasks([NewTask(i, data[i], label=seeds[i]) for i in seeds])


def test_classes_are_added_removed_and_renamed_without_losing_an_annotation(
    api: httpx.Client,
    settings: Settings,
    project: ProjectSetup,
    reopen: Callable[[], Loop],
    capsys: pytest.CaptureFixture[str],
) -> None:
    import_seeds(reopen())
    first = train(reopen())
    assert first.labels == 40

    change_choices(api, project, "Ring=ring", *DIGITS)
    loop = reopen()
    assert loop.names == (*DIGITS, "ring")
    open_tasks = [task.task_id for task in project.tasks() if task.is_open]
    for task_id in open_tasks[:4]:
        annotate(api, project, task_id, "ring")
    observe.read_changes(loop.project, loop.store)
    head = rounds.refit_head(loop)
    assert head is not None
    assert (head.classes, head.labels_per_class["ring"]) == ((*DIGITS, "ring"), 4)

    change_choices(api, project, "Ring=ring", *DIGITS[:9])
    fewer = train(reopen())
    n_nines = first.labels_per_class["9"]
    assert fewer.left_out == {"removed class": n_nines}
    assert "9" not in fewer.labels_per_class

    change_choices(api, project, "Circle=circle", *DIGITS)
    with pytest.raises(LabelConfigError, match="is not among the label config's choices"):
        rename(settings, TITLE, ["ring=wheel"])
    rename(settings, TITLE, ["ring=circle"])
    assert "ring is now circle: 4 annotations count" in capsys.readouterr().out
    loop = reopen()
    assert loop.store.facts().train_asked_at > 0
    last = train(loop)
    assert last.left_out == {}
    assert last.labels_per_class["circle"] == 4
    assert last.labels_per_class["9"] == n_nines
    assert batches.top_up(loop) == 0  # the open tasks suffice
    assert sum(map(len, project.annotations().values())) == 44


def test_an_annotation_of_a_class_that_was_added_during_the_job_counts_in_the_next(
    api: httpx.Client, project: ProjectSetup, reopen: Callable[[], Loop]
) -> None:
    import_seeds(reopen())
    loop = reopen()
    change_choices(api, project, *DIGITS, "ring")
    annotate(api, project, project.tasks()[0].task_id, "ring", ground_truth=True)
    assert train(loop).left_out == {"unknown class": 1}
    later = reopen()
    assert later.store.facts().train_asked_at > 0  # no annotation is new, but one counts now
    assert train(later).labels_per_class["ring"] == 1


def test_a_class_folder_that_joins_a_labeled_pool_is_offered_and_learned(
    api: httpx.Client,
    animals: Settings,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project_id = set_up(animals).project.project_id
    try:
        import_seeds(reopened(animals, project_id), 20)
        train(reopened(animals, project_id))
        for number in range(20):
            save_image(Path(animals.pool) / f"train/emu/{number}.png", (0, number, 255))
        rescan.rescan(reopened(animals, project_id), must_list=True, progress=lambda *_: None)
        assert 'The pool has images of "emu", which annotators cannot choose yet' in caplog.text
        assert reopened(animals, project_id).names == ("cat", "dog")

        opened = set_up(animals)
        assert opened.record.classes == ("cat", "dog", "emu")
        assert opened.project.label_config().choices == ("cat", "dog", "emu")
        printed = capsys.readouterr().out
        assert "annotators can now choose emu" in printed
        assert SAME_VALIDATION in printed

        loop = reopened(animals, project_id)
        waiting = [task.task_id for task in opened.project.tasks() if task.is_open]
        annotate(api, opened.project, waiting[0], "emu")
        assert train(loop).labels_per_class == {"cat": 10, "dog": 10, "emu": 1}
        assert emus(loop) <= set(loop.pool.image_ids)
    finally:
        api.delete(f"/api/projects/{project_id}/").raise_for_status()


def emus(loop: Loop) -> set[str]:
    return {image_id for image_id, label in true_labels(loop.pool).items() if label == "emu"}
