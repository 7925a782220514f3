"""Observe a project: gather its state from its folder, its database and the hints in Redis.

Only `read_changes` and `read_everything_changed` read from Label Studio.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path

from backend.base.classes import ClassList
from backend.base.labeling import LabelingProject, TaskReading
from backend.base.progress import Progress
from backend.labelstudio.project import CLOCK_SKEW
from backend.people.annotators import people_at_work
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import State
from backend.rounds.finish_reading import read_finish
from backend.rounds.validation_reading import read_validation
from backend.store.project_record import read_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry

TASKS_PER_TRANSACTION = 500
AT_WORK_S = 3600.0
# How long Label Studio, by default, reserves a task for the person who opened it. Our own stacks
# set half an hour.
RESERVED_FOR_S = 24 * 3600.0


def observe(root: Path, queue: TrainingQueue, project_id: int) -> State:
    """Gather the state that `decide` needs."""
    store = ProjectStore(root)
    facts = store.facts()
    hints = queue.hints(project_id)
    n_new, first_new_at = count_new(store, queue, project_id)
    current = Registry(root).current()
    record = read_record(root)
    is_attached = record is not None and record.is_attached
    return State(
        facts=facts,
        n_new=n_new,
        first_new_at=first_new_at,
        hinted_at=hints.hinted_at,
        train_asked_at=max(facts.train_asked_at, hints.train_asked_at),
        rescan_asked_at=max(facts.rescan_asked_at, hints.rescan_asked_at),
        may_pool_change=record is not None and record.may_pool_change,
        n_open=store.n_open(),
        n_at_work=_count_at_work(root, facts.revision, is_attached),
        rounds_done=Registry(root).last_round(),
        in_service=current.version if current else "",
        is_attached=is_attached,
        has_foreign_open=store.n_foreign_open() > 0,
        must_ask_sample=record is not None
        and record.validation == "people"
        and facts.revision > facts.sample_asked_again
        and _must_ask_sample(root, record.class_list, facts.revision),
        # `decide` does not depend on whether tasks may be reopened: the step "finish" does.
        acceptance=read_finish(root, record.class_list, may_reopen=True) if record else None,
    )


def count_new(
    store: ProjectStore, queue: TrainingQueue, project_id: int
) -> tuple[int, float | None]:
    """Count annotations that no training run has used; return when the first was noticed.

    Counts annotations found by the last reading, and images reported by later webhooks. If the
    reading has found an image, the image is not counted again because of its webhook. Foreign tasks
    are never counted.
    """
    read_at = store.facts().read_at
    # Until the first reading, all annotations used by an earlier release look deleted.
    n_read, first_at = store.new_annotations() if read_at else (0, None)
    named = queue.annotated_since(project_id, read_at)
    known = store.new_images() | store.foreign_images() if named else set()
    unread = {image_id: at for image_id, at in named.items() if image_id not in known}
    noticed = [*unread.values(), *(() if first_at is None else (first_at,))]
    return n_read + len(unread), min(noticed, default=None)


def read_changes(
    project: LabelingProject,
    store: ProjectStore,
    *,
    is_full: bool = False,
    now: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Update the local copy of the project's tasks and annotations.

    Reads only what changed since the last reading. Reads everything if `is_full` is set, if nothing
    has been read before, or if the label config now names another control or another image key.
    `now` is in seconds since the epoch and defaults to the current time.
    """
    began = time.time() if now is None else now
    read_at = store.facts().read_at
    if is_full or not read_at:
        store.expect_older_tasks()  # Label Studio may have been restored from a backup
        changes = project.read_tasks()
    else:
        changes = project.read_tasks(datetime.fromtimestamp(read_at, UTC) - CLOCK_SKEW)
    n_read, n_tasks = 0, project.n_tasks() if progress else 0
    for tasks in _chunks(changes):
        store.record_tasks(tasks, began)
        n_read += len(tasks)
        if progress:
            progress("reading tasks", n_read, n_tasks)
    config = project.label_config()  # as `read_tasks` found it
    read_with = f"{config.from_name} {config.image_key}"
    is_full = is_full or not read_at
    is_renamed = read_with != store.facts().read_with
    if is_renamed and not is_full:
        read_changes(project, store, is_full=True, now=now)
        return
    store.record_reading(began, is_full=is_full)
    if is_renamed:
        store.record(read_with=read_with)


def read_everything_changed(
    project: LabelingProject, store: ProjectStore, *, now: float | None = None
) -> None:
    """Update the local copy; read all tasks if Label Studio has a different number of tasks, or had
    more annotations than this reading found.

    The numbers of tasks differ after a deletion, for example. Annotations are missing if Label
    Studio or its database was killed after saving them, but before marking their task as changed.
    """
    n_annotations = project.count_annotations()
    read_changes(project, store, now=now)
    if project.n_tasks() != store.n_tasks() or _lacks_annotations(store, n_annotations):
        read_changes(project, store, is_full=True, now=now)


def count_at_work(store: ProjectStore, *, is_attached: bool) -> int:
    """Count the people who are annotating at once.

    In an attached project, this includes people for whom Label Studio may still reserve a task.
    """
    within_s = RESERVED_FOR_S if is_attached else AT_WORK_S
    return len(people_at_work(store.last_annotated(), within_s))


# The clock observes every project once a second, and only a new revision can change the answer.
@lru_cache(maxsize=32)
def _count_at_work(root: Path, revision: int, is_attached: bool) -> int:  # noqa: ARG001
    return count_at_work(ProjectStore(root), is_attached=is_attached)


@lru_cache(maxsize=32)
def _must_ask_sample(root: Path, classes: ClassList, revision: int) -> bool:  # noqa: ARG001
    """Return whether any validation task must be reopened."""
    outcomes = read_validation(ProjectStore(root), classes, n_wanted=0).outcomes
    return any(outcome.must_ask for outcome in outcomes.values())


def _lacks_annotations(store: ProjectStore, n_annotations: int) -> bool:
    """Return whether fewer than `n_annotations` annotations were found.

    Returns False if some tasks cannot be listed: reading all tasks would not find their annotations
    either.
    """
    counts = store.counts()
    is_fewer = counts.annotations + counts.skipped < n_annotations
    return is_fewer and not store.facts().unlisted_tasks


def _chunks(tasks: Iterable[TaskReading]) -> Iterator[Sequence[TaskReading]]:
    left = iter(tasks)
    while chunk := list(islice(left, TASKS_PER_TRANSACTION)):
        yield chunk
