"""Distinguish our tasks from tasks that people add to our project, in a real Label Studio."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from backend.base.labeling import Asked, NewTask
from backend.labelstudio.project_setup import ProjectSetup
from backend.labelstudio.task_data import write_asked
from backend.rounds.observe import read_everything_changed
from backend.store.project_store import ProjectStore
from tests.integration.labelstudio.annotating import annotate

PICTURE = "data:image/png;base64,"


@pytest.fixture
def store(project: ProjectSetup, tmp_path: Path) -> ProjectStore:
    """Return the database of a project in which Tightloop asked for one image."""
    own = ProjectStore(tmp_path)
    asked = Asked("ours", round=0, strategy="random", version="")
    own.record_asked([asked])
    project.import_tasks([NewTask("ours", write_asked(PICTURE, asked, hint=None))])
    return own


def test_tasks_that_a_colleague_adds_annotates_and_deletes_change_nothing(
    project: ProjectSetup, api: httpx.Client, store: ProjectStore
) -> None:
    added = [{"data": {"image": PICTURE}}, {"data": {"image": PICTURE, "image_id": "theirs"}}]
    path = f"/api/projects/{project.project_id}/import"
    api.post(path, json=added).raise_for_status()
    read_everything_changed(project, store)
    assert (store.n_tasks(), store.n_open(), store.n_foreign_open()) == (3, 1, 2)
    before = store.facts().revision

    theirs = sorted(store.foreign_tasks())
    for task_id in theirs:
        annotate(api, project, task_id, "cat")
    read_everything_changed(project, store)
    assert (store.n_foreign_open(), store.counts().annotations) == (0, 2)
    assert store.new_annotations() == (0, None)

    project.delete_tasks(theirs)
    read_everything_changed(project, store)
    assert (store.n_tasks(), store.foreign_tasks()) == (1, set())
    assert (store.new_annotations(), store.facts().revision) == ((0, None), before)


def test_a_task_that_is_exported_and_imported_again_is_a_copy(
    project: ProjectSetup, api: httpx.Client, store: ProjectStore
) -> None:
    path = f"/api/projects/{project.project_id}"
    exported = api.get(f"{path}/export", params={"download_all_tasks": True}).json()
    api.post(f"{path}/import", json=exported).raise_for_status()
    read_everything_changed(project, store)
    assert (store.n_tasks(), store.n_open(), len(store.copies())) == (2, 1, 1)
