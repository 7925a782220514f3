"""Serve tasks of the validation sample to one person and to two, and ask again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from backend.base.settings import Settings
from backend.images.pool import open_pool
from backend.images.validation_sample import Validation
from backend.labelstudio.client import create_project
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project_setup import ProjectSetup
from backend.network.training import Recipe
from backend.rounds import batches
from backend.rounds.loop import Loop
from backend.rounds.ordering import without_guess
from backend.rounds.validation import read_sample
from tests.integration.labelstudio.annotating import (
    annotate,
    import_images,
    new_task,
    served,
)


def test_a_skipped_task_is_served_once_more_after_its_skip_is_deleted(
    project: ProjectSetup, api: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(project, new_task("held-out", without_guess("r0001")))
    assert served(api, project) == "held-out"
    skip = annotate(api, project, ids["held-out"], None, was_cancelled=True)
    assert served(api, project) is None
    assert project.open_tasks() == []
    [skipped] = project.open_tasks(skipped={ids["held-out"]})
    assert (skipped.is_open, skipped.awaits_second_opinion) == (False, False)

    project.delete_annotation(skip)
    project.delete_annotation(skip)  # ignored: it is gone
    [again] = project.open_tasks()
    assert again.is_open
    assert project.predicted_by("r0001", [again.task_id]) == {again.task_id}
    assert served(api, project) == "held-out"
    annotate(api, project, ids["held-out"], "cat")
    assert project.open_tasks() == []


def test_a_new_task_that_is_opened_for_two_closes_after_two_annotators(
    project: ProjectSetup, api: httpx.Client, second: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(project, new_task("held-out", without_guess("r0001")))
    task_id = ids["held-out"]
    project.reopen(task_id, 2)
    [new] = project.open_tasks()
    assert (new.is_open, new.awaits_second_opinion) == (True, False)
    assert served(api, project) == "held-out"
    assert served(second, project) == "held-out"  # although the first annotator has it open

    annotate(api, project, task_id, "cat")
    assert served(api, project) is None
    [waiting] = project.open_tasks()
    assert (waiting.is_open, waiting.awaits_second_opinion) == (False, True)
    annotate(second, project, task_id, "dog")
    assert served(second, project) is None
    assert project.open_tasks() == []

    project.reopen(task_id, 3)
    assert served(api, project) is None
    assert served(second, project) is None
    [third] = project.open_tasks()
    assert third.awaits_second_opinion


def test_a_task_for_two_that_one_person_skipped_is_served_to_the_other(
    project: ProjectSetup, api: httpx.Client, second: httpx.Client
) -> None:
    project.configure(is_blind=False)
    ids = import_images(project, new_task("held-out", without_guess("r0001")))
    project.reopen(ids["held-out"], 2)
    annotate(api, project, ids["held-out"], None, was_cancelled=True)
    assert served(api, project) is None
    assert served(second, project) == "held-out"
    annotate(second, project, ids["held-out"], "cat")
    assert [a.label for a in project.annotations()[ids["held-out"]]] == [None, "cat"]
    [waiting] = project.open_tasks()  # for anyone who has not seen it
    assert waiting.awaits_second_opinion


@pytest.fixture
def loop(tmp_path: Path, credentials: tuple[str, str], api: httpx.Client) -> Iterator[Loop]:
    """Provide a loop over the digits whose validation labels annotators give."""
    pool = open_pool("digits", tmp_path, seed=0, validation=Validation("people", 30))
    config = label_config_xml(pool.classes)
    project_id = create_project(*credentials, title="Sampled", label_config=config)
    yield Loop(
        settings=Settings.model_construct(batch_size=5, overlap="1", data_dir=tmp_path),
        root=tmp_path / f"p{project_id}",
        project=ProjectSetup(*credentials, project_id),
        choices=pool.classes,
        pool=pool,
        weights="none",
        recipe=Recipe(image_size=32),
        seed=0,
        device=torch.device("cpu"),
        validation_labels=30,
    )
    api.delete(f"/api/projects/{project_id}/").raise_for_status()


def test_the_sample_is_labeled_by_one_person_and_then_by_two(
    loop: Loop, api: httpx.Client, second: httpx.Client
) -> None:
    project = loop.project
    assert isinstance(project, ProjectSetup)
    assert batches.top_up(loop) == 5
    [first] = loop.store.validation_tasks()
    assert first.image_id == loop.pool.sample.image_ids[0]
    for task in project.open_tasks():
        if task.task_id != first.task_id:
            annotate(api, project, task.task_id, "3")
    annotate(api, project, first.task_id, None, was_cancelled=True)
    assert served(api, project) is None

    assert batches.top_up(loop) == 5  # also asks for the first image once more
    assert len(loop.store.deleted_skips()) == 1
    assert first.task_id in {task.task_id for task in project.open_tasks()}
    assert read_sample(loop).progress.pending == 2
    for task in project.open_tasks():
        by = second if loop.pool.is_in_sample(task.image_id) else api
        annotate(by, project, task.task_id, "4")

    assert batches.top_up(loop) == 10  # now both annotate
    assert read_sample(loop).labels == dict.fromkeys(loop.pool.sample.image_ids[:2], "4")
    [*_, third] = loop.store.validation_tasks()
    annotate(api, project, third.task_id, "4")
    batches.top_up(loop)
    assert read_sample(loop).outcomes[third.task_id].state == "pending"
    [waiting] = [task for task in project.open_tasks() if task.awaits_second_opinion]
    assert waiting.task_id == third.task_id
    annotate(second, project, third.task_id, "5")
    batches.top_up(loop)
    assert read_sample(loop).outcomes[third.task_id].state == "undecided"
