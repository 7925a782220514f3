"""Ignore the tasks that people created in a project that we created."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest

from backend.base.labeling import NewTask, TaskReading
from backend.images.known_labels import true_labels
from backend.images.pool import Pool
from backend.rounds import batches, observe, ordering
from backend.rounds.foreign_tasks import adopt_tasks, foreign_notice
from backend.rounds.loop import Loop
from backend.store.version_meta import UNTRAINED
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import seed, train


@dataclass
class SharedProject(OracleProject):
    """A project to which people also add tasks, whose data does not say how they were queried."""

    theirs: set[int] = field(default_factory=set)

    def add_by_hand(self, *image_ids: str) -> list[int]:
        """Create tasks as a colleague does; return their ids."""
        before = set(self.by_task)
        self.import_tasks([NewTask(image_id, {}) for image_id in image_ids])
        added = sorted(self.by_task.keys() - before)
        self.theirs |= set(added)
        return added

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        for found in super().read_tasks(changed_after):
            yield replace(found, is_unmarked=found.task.task_id in self.theirs)


@pytest.fixture
def project(pool: Pool) -> SharedProject:
    return SharedProject(pool.classes)


def test_two_hundred_foreign_open_tasks_do_not_keep_images_from_being_asked(
    loop: Loop, project: SharedProject
) -> None:
    project.add_by_hand(*[""] * 100, *(f"other-{number}" for number in range(100)))
    assert batches.top_up(loop) == 10
    assert loop.store.n_open() == 10
    assert batches.top_up(loop) == 0


def test_foreign_annotations_are_not_trained_on_and_deleting_them_is_no_change(
    loop: Loop, project: SharedProject
) -> None:
    seed(loop, project)
    train(loop)
    revision = loop.store.facts().revision
    added = project.add_by_hand("", "other", "third")
    for task_id in added:
        project.answer(task_id, "1")
    observe.read_everything_changed(project, loop.store)
    assert loop.store.new_annotations() == (0, None)
    meta = train(loop, is_forced=True)
    assert meta.labels == 40
    project.delete_tasks(added)
    observe.read_everything_changed(project, loop.store)
    assert loop.store.foreign_tasks() == set()
    assert loop.store.new_annotations() == (0, None)
    assert loop.store.facts().revision == revision


def test_foreign_open_tasks_get_no_predictions(loop: Loop, project: SharedProject) -> None:
    seed(loop, project)
    added = project.add_by_hand("", "other")
    train(loop)
    assert ordering.refresh_predictions(loop) == 0
    ours = {task.task_id for task in project.open_tasks()} - {*added}
    assert len(ours) == 10
    assert {task_id for task_id, found in project.predictions.items() if found} == ours


def test_before_the_first_version_our_tasks_come_before_foreign_ones(
    loop: Loop, project: SharedProject
) -> None:
    batches.top_up(loop)
    assert ordering.refresh_predictions(loop) == 0  # every open task is ours
    added = project.add_by_hand("", "other")
    observe.read_everything_changed(project, loop.store)
    assert ordering.refresh_predictions(loop) == 10
    assert project.version == UNTRAINED
    project.answer(min(project.by_task), "1")
    assert batches.top_up(loop) == 10
    assert loop.store.facts().ordered_by == ""  # so a refresh is due
    assert ordering.refresh_predictions(loop) == 10
    unordered = {task_id for task_id, found in project.predictions.items() if not found}
    assert unordered == {*added}


def test_tasks_of_the_pools_images_count_no_matter_who_created_them(
    loop: Loop, project: SharedProject
) -> None:
    image_id = loop.pool.image_ids[7]
    [task_id] = project.add_by_hand(image_id)
    project.add_by_hand("other")
    project.answer(task_id, true_labels(loop.pool)[image_id])
    observe.read_everything_changed(project, loop.store)
    assert loop.store.new_annotations()[0] == 0
    adopt_tasks(loop.pool, loop.store)
    assert loop.store.new_annotations()[0] == 1
    assert [task.task_id for task in loop.store.tasks()] == [task_id]


def test_a_batch_of_foreign_open_tasks_is_named_and_fewer_are_not(
    loop: Loop, project: SharedProject
) -> None:
    project.add_by_hand(*[""] * 10)
    observe.read_everything_changed(project, loop.store)
    assert foreign_notice(loop.store, 11) == ""
    assert foreign_notice(loop.store, 10).startswith(
        "10 open tasks were not created by Tightloop, so it does not learn from them."
    )
