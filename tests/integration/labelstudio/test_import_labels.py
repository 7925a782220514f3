"""Import labels from elsewhere into projects of a real Label Studio."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from backend.images.index import Index
from backend.labelstudio.attached_project import open_project
from backend.labelstudio.project import LabelStudioProject
from backend.store.project_record import POOL_INDEX, project_root
from backend.store.project_store import ProjectStore
from scripts.import_labels import accounts_of
from tests.integration.conftest import Stack
from tests.integration.labelstudio.existing import make_existing, task_ids
from tests.unit.images.image_folders import save_image

HEADER = ("image", "label", "annotator")
NEW = "elsewhere@example.org"


def write_file(path: Path, *rows: Sequence[str], header: Sequence[str] = HEADER) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def labels_of(project: LabelStudioProject) -> dict[str, list[tuple[int | None, str | None]]]:
    """Return who chose what, by image."""
    return {
        reading.task.image_id: [(a.annotator, a.label) for a in reading.annotations]
        for reading in project.read_tasks()
        if reading.annotations
    }


def test_labels_become_annotations_in_their_annotators_names_and_a_second_run_changes_nothing(
    stack: Stack, tmp_path: Path, api: httpx.Client
) -> None:
    for number in range(50):
        save_image(tmp_path / f"photos/{number}.png", (9, 9, number))
    pool = {"POOL": str(tmp_path / "photos"), "CLASSES": "cat,dog", "SEED_LABELS": "0"}
    with stack.with_project("Imported under test", **pool) as own:
        command = ("scripts.import_labels", "--project", str(own.info["project_id"]))
        project = open_project(own.settings, own.info["project_id"])
        root = project_root(own.settings.model_dir, project.project_id)
        index = Index.read(root / POOL_INDEX)
        assert index is not None
        places = dict(zip(index.image_ids, index.table["location"].to_pylist(), strict=True))
        open_ids = [task.image_id for task in project.tasks()]
        free = [i for i in index.image_ids[index.splits == "pool"] if i not in open_ids]
        held_out = next(
            i for i in index.image_ids[index.splits == "validation"] if i not in open_ids
        )
        admin = own.info["username"]
        path = write_file(
            tmp_path / "labels.csv",
            (places[open_ids[0]], "cat", admin),
            (free[0], "DOG", admin.upper()),
            (f"{tmp_path}/photos/{places[free[0]]}", "cat", NEW),
            (free[1], "cat", ""),
            (held_out, "dog", admin),
            (open_ids[1], "dog", ""),
        )

        planned = own.run(*command, path, "--dry-run")
        assert planned.returncode == 0, planned.stderr
        assert "6 labels in the file" in planned.stdout
        assert "3 for 3 new tasks" in planned.stdout
        assert f"1 left out: the annotators have no account; use --create-accounts: {NEW} (1)" in (
            planned.stdout
        )
        assert labels_of(project) == {}

        done = own.run(*command, path, "--create-accounts")
        assert done.returncode == 0, done.stderr
        assert "imported 5 labels" in done.stdout
        ids = accounts_of(project)
        expected = {
            open_ids[0]: [(ids[admin], "cat")],
            free[0]: [(ids[admin], "dog"), (ids[NEW], "cat")],
            free[1]: [(None, "cat")],
            held_out: [(ids[admin], "dog")],
        }
        assert labels_of(project) == expected
        store = ProjectStore(root)
        assert held_out in {task.image_id for task in store.validation_tasks()}
        given = [a for found in store.annotations().values() for a in found]
        assert [a.is_ground_truth for a in given] == [False] * 5
        assert [a.is_imported for a in given if a.annotator is not None] == [True] * 4

        again = own.run(*command, path, "--create-accounts")
        assert again.returncode == 0, again.stderr
        assert "5 already there" in again.stdout
        assert "nothing to import" in again.stdout
        assert labels_of(project) == expected
        api.delete(f"/api/users/{ids[NEW]}/").raise_for_status()


def test_labels_of_an_attached_project_annotate_its_tasks_and_create_none(
    stack: Stack, tmp_path: Path, api: httpx.Client
) -> None:
    project_id = make_existing(api, "Attached import under test", n_images=12, n_labeled=1)
    attach = stack.run("scripts.setup_project", "--attach", str(project_id), "--yes", "--json")
    assert attach.returncode == 0, attach.stderr
    try:
        project = open_project(stack.settings, project_id)
        first, second, third, *_ = ids = task_ids(api, project_id)
        address = api.get(f"/api/tasks/{second}/").json()["data"]["photo"]
        admin = stack.info["username"]
        path = write_file(
            tmp_path / "labels.csv",
            (f"ls-{first}", "robin", admin),  # the admin has chosen Sparrow
            (address, "Robin", admin),
            (f"ls-{third}", "Robin", ""),
        )
        done = stack.run("scripts.import_labels", path, "--project", str(project_id))
        assert done.returncode == 0, done.stderr
        assert "1 left out: the annotator chose another class earlier" in done.stdout
        assert "imported 1 labels" in done.stdout
        by = accounts_of(project)[admin]
        assert labels_of(project) == {
            f"ls-{first}": [(by, "Sparrow")],
            f"ls-{second}": [(by, "Robin")],
        }
        assert task_ids(api, project_id) == ids
    finally:
        detach = stack.run("scripts.setup_project", "--detach", str(project_id))
        assert detach.returncode == 0, detach.stderr
        api.delete(f"/api/projects/{project_id}/").raise_for_status()


@pytest.mark.parametrize("label", ["no such class", ""])
def test_a_wrong_file_is_refused_before_anything_is_sent(
    stack: Stack, tmp_path: Path, label: str
) -> None:
    project = open_project(stack.settings, stack.info["project_id"])
    before = project.counts()
    image_id = project.tasks()[0].image_id
    path = write_file(tmp_path / "labels.csv", (image_id, label, ""))
    refused = stack.run("scripts.import_labels", path)
    assert refused.returncode == 1
    assert "line 2: " in refused.stderr
    assert project.counts() == before


def test_annotating_a_deleted_task_is_reported(project: LabelStudioProject) -> None:
    assert not project.annotate(10**9, "cat", annotator=1)
