"""Test what an import plans, on loops over digits with an oracle in place of Label Studio."""

from __future__ import annotations

import pytest

from backend.base.labeling import NewTask
from backend.images.digest import digest
from backend.results.import_file import ImportedLabel
from backend.results.import_plan import (
    HAS_TASK,
    HELD_OUT,
    NO_TASK,
    NOT_USABLE,
    OF_SAMPLE,
    ImportPlan,
    plan_import,
)
from backend.rounds.loop import Loop
from backend.rounds.observe import read_changes
from scripts.research.oracle import OracleProject

ACCOUNTS = {"ann@x.org": 1, "bo@x.org": 2}


def plan(loop: Loop, *rows: tuple[str, str, str]) -> ImportPlan:
    read_changes(loop.project, loop.store)
    return plan_import(loop, [ImportedLabel(*row) for row in rows], ACCOUNTS)


def test_images_without_a_task_get_one_task_with_all_their_labels(loop: Loop) -> None:
    first, second, *_ = loop.pool.image_ids
    found = plan(
        loop,
        (first, "3", "ann@x.org"),
        (first, "4", "bo@x.org"),
        (first, "5", ""),
        (second, "3", ""),
    )
    assert {i: (new.of_data_set, new.by) for i, new in found.new_tasks.items()} == {
        first: ("5", {1: "3", 2: "4"}),
        second: ("3", {}),
    }
    assert found.n_new == 4


def test_what_annotators_have_done_is_never_changed(loop: Loop, project: OracleProject) -> None:
    ids = loop.pool.image_ids
    project.import_tasks([NewTask(i, {}) for i in ids[:3]])
    project.answer(1, "3", annotator=1)
    project.answer(2, None, annotator=1, was_skipped=True)
    found = plan(
        loop,
        (ids[0], "3", "ann@x.org"),
        (ids[0], "4", "bo@x.org"),
        (ids[1], "3", "ann@x.org"),
        (ids[2], "3", "ann@x.org"),
    )
    assert (found.n_unchanged, found.n_different) == (1, 1)
    assert found.annotations == [(1, 2, "4"), (3, 1, "3")]
    assert not found.new_tasks


def test_a_label_of_the_data_set_is_left_out_if_the_image_has_a_task(
    loop: Loop, project: OracleProject
) -> None:
    seeded, queried, *_ = loop.pool.image_ids
    project.import_tasks([NewTask(seeded, {}, label="3"), NewTask(queried, {})])
    found = plan(loop, (seeded, "3", ""), (queried, "3", ""))
    assert found.n_unchanged == 1
    assert found.left_out == {HAS_TASK: 1}
    assert plan(loop, (seeded, "4", "")).n_different == 1


def test_annotators_without_an_account_are_counted(loop: Loop) -> None:
    image_id = loop.pool.image_ids[0]
    found = plan(loop, (image_id, "3", "cy@x.org"), (image_id, "3", "ann@x.org"))
    assert found.no_account == {"cy@x.org": 1}
    assert found.new_tasks[image_id].by == {1: "3"}


def test_only_people_label_validation_images_and_known_labels_are_left_out(sampled: Loop) -> None:
    held_out, test = sampled.pool.sample.image_ids[0], sampled.pool.test.image_ids[0]
    found = plan(
        sampled, (held_out, "3", ""), (held_out, "4", "ann@x.org"), (test, "3", "ann@x.org")
    )
    assert found.left_out == {OF_SAMPLE: 1, HELD_OUT: 1}
    assert found.new_tasks[held_out].by == {1: "4"}


def test_tasks_of_an_attached_project_are_annotated_and_never_created(attached: Loop) -> None:
    found = plan(
        attached, ("ls-2", "3", "ann@x.org"), ("ls-3", "3", ""), ("ls-9999", "3", "ann@x.org")
    )
    assert found.annotations == [(2, 1, "3")]
    assert found.left_out == {HAS_TASK: 1, NO_TASK: 1}
    assert not found.new_tasks


def test_labels_of_copies_count_for_one_image(folder_loop: Loop) -> None:
    first, second, removed = map(digest, ("first.png", "second.png", "removed.png"))
    canonical = folder_loop.pool.canonical(second)
    assert canonical == folder_loop.pool.canonical(first)
    found = plan(
        folder_loop,
        (first, "cat", "ann@x.org"),
        (second, "cat", "ann@x.org"),
        (second, "dog", "bo@x.org"),
        (first, "cat", "bo@x.org"),
        (removed, "cat", "bo@x.org"),
    )
    assert {i: new.by for i, new in found.new_tasks.items()} == {canonical: {1: "cat", 2: "dog"}}
    assert (found.n_unchanged, found.n_different) == (1, 1)
    assert found.left_out == {NOT_USABLE: 1}


@pytest.mark.parametrize("with_task", ["first.png", "second.png"])
def test_a_copy_is_annotated_in_the_task_of_the_other_image(
    folder_loop: Loop, with_task: str
) -> None:
    folder_loop.project.import_tasks([NewTask(digest(with_task), {})])
    for name in ("first.png", "second.png"):
        assert plan(folder_loop, (digest(name), "cat", "ann@x.org")).annotations == [(1, 1, "cat")]
