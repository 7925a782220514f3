"""Test importing labels, on loops over digits with an oracle in place of Label Studio."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from backend.base.labeling import NewTask
from backend.images.digest import digest
from backend.results import label_import
from backend.results.import_file import ImportedLabel
from backend.results.label_import import decode_named, import_labels
from backend.rounds.labels import read_labels
from backend.rounds.loop import Loop
from backend.rounds.validation import read_sample
from scripts.research.oracle import OracleProject

ACCOUNTS = {"ann@x.org": 1, "bo@x.org": 2}


def quiet(*_: object) -> None:
    """Report no progress."""


def send(loop: Loop, *rows: tuple[str, str, str]) -> int:
    return import_labels(loop, [ImportedLabel(*row) for row in rows], ACCOUNTS, quiet)


def answers(project: OracleProject) -> dict[str, list[tuple[int | None, str | None]]]:
    return {
        project.by_task[task_id].image_id: [(a.annotator, a.label) for a in of_task]
        for task_id, of_task in project.answers.items()
    }


def test_labels_are_imported_once_however_often_the_command_runs(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_import, "TASKS_AT_ONCE", 2)
    ids = loop.pool.image_ids
    project.import_tasks([NewTask(ids[0], {})])
    rows = [(i, "3", "ann@x.org") for i in ids[:6]] + [(ids[0], "4", "bo@x.org"), (ids[6], "5", "")]
    assert send(loop, *rows) == 8
    expected = {i: [(1, "3")] for i in ids[1:6]}
    assert answers(project) == expected | {ids[0]: [(1, "3"), (2, "4")], ids[6]: [(None, "5")]}
    assert send(loop, *rows) == 0
    assert project.n_given == 8


@dataclass
class MeanwhileQueried(OracleProject):
    """A project in which an image is queried just before the first import of tasks."""

    meanwhile: str = ""

    def n_tasks(self) -> int:
        if self.meanwhile:
            image_id, self.meanwhile = self.meanwhile, ""
            super().import_tasks([NewTask(image_id, {})])
        return super().n_tasks()


def test_an_image_that_is_queried_during_an_import_is_annotated_in_its_task(loop: Loop) -> None:
    first, second, *_ = loop.pool.image_ids
    project = MeanwhileQueried(loop.choices, meanwhile=first)
    loop = replace(loop, project=project)
    assert send(loop, (first, "3", "ann@x.org"), (second, "4", "ann@x.org")) == 2
    assert sorted(task.image_id for task in project.by_task.values()) == sorted([first, second])
    assert answers(project) == {second: [(1, "4")], first: [(1, "3")]}


def test_labels_of_validation_images_are_used_for_validation_and_not_for_training(
    sampled: Loop,
) -> None:
    held_out, image_id = sampled.pool.sample.image_ids[0], sampled.pool.image_ids[0]
    assert send(sampled, (held_out, "3", "ann@x.org"), (image_id, "4", "ann@x.org")) == 2
    assert read_sample(sampled).labels == {held_out: "3"}
    assert read_labels(sampled, sampled.store.annotations()).labels.image_ids == (image_id,)


def test_tasks_that_were_deleted_during_an_import_are_not_counted(attached: Loop) -> None:
    project = attached.project
    assert send(attached, ("ls-2", "3", "ann@x.org")) == 1
    assert isinstance(project, OracleProject)
    assert not project.annotate(9999, "3", 1)


def test_images_are_decoded_before_their_tasks_are_created(folder_loop: Loop) -> None:
    undecoded = [digest("new.png"), digest("damaged.png")]
    assert not {*undecoded} & {*folder_loop.pool.image_ids}
    labels = [ImportedLabel(i, "cat", "ann@x.org") for i in undecoded]
    assert import_labels(decode_named(folder_loop, labels, quiet), labels, ACCOUNTS, quiet) == 1
    assert folder_loop.store.annotated_images() == {digest("new.png")}
