"""Reopen annotated tasks to get annotations from other annotators."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from backend.base.labeling import Annotation
from backend.base.progress import Progress
from backend.people.annotators import active_annotators, has_duplicate_annotations
from backend.people.second_opinions import (
    AnnotatedTask,
    annotated_by_fewer_than,
    choose_second_opinions,
    find_annotated,
)
from backend.rounds.labels import read_labels
from backend.rounds.loop import Loop
from backend.rounds.observe import read_changes
from backend.rounds.ordering import order_open_tasks
from backend.rounds.scoring import pool_probs

log = logging.getLogger(__name__)


def reopen_all(loop: Loop, n_annotators: int, batch_size: int) -> None:
    """Reopen tasks that fewer than `n_annotators` people have annotated, oldest first.

    No more than two batches of tasks await a second opinion at a time, because their predictions
    must be refreshed quickly.
    """
    annotations = loop.store.annotations()
    n_free, tasks = _find_reopenable(loop, annotations, 2 * batch_size)
    if n_free <= 0:
        return
    if loop.has_pretrained_body:
        # The version in service was trained on the first annotation, so wait for probabilities
        # from a model that was not.
        probs = read_labels(loop, annotations).probs
        tasks = [task for task in tasks if task.image_id in probs]
    _reopen(loop, annotated_by_fewer_than(tasks, n_annotators)[:n_free])


def reopen_doubtful(loop: Loop, batch_size: int, progress: Progress) -> int:
    """Reopen tasks if a second opinion is worth more than a new image; return their number."""
    version = loop.registry.current()
    annotations = loop.store.annotations()
    n_free, tasks = _find_reopenable(loop, annotations, batch_size)
    active = active_annotators(annotations)
    if version is None or n_free <= 0 or len(active) < 2 or not tasks:
        return 0
    reading = read_labels(loop, annotations)
    asked = {loop.pool.canonical(task.image_id) for task in loop.store.tasks()}
    asked |= loop.reserved_images()
    rows = [row for row, image_id in enumerate(loop.pool.image_ids) if image_id not in asked]
    new_probs = pool_probs(loop, version, progress)[rows]
    chosen = choose_second_opinions(
        tasks, reading.annotations, reading.probs, new_probs, active, n_free
    )
    _reopen(loop, chosen)
    return len(chosen)


def _find_reopenable(
    loop: Loop, annotations: Mapping[int, Sequence[Annotation]], limit: int
) -> tuple[int, list[AnnotatedTask]]:
    """Return how many more tasks may be reopened within `limit`, and the tasks to choose from.

    Tasks of the acceptance sample are reopened only to judge it.
    """
    of_sample = {task.task_id for task in loop.store.validation_tasks()}
    accepted = loop.finish_store.asked_tasks()
    waiting = {
        task.task_id
        for task in loop.store.tasks()
        if task.awaits_second_opinion and task.task_id not in of_sample | accepted
    }
    n_servable = sum(not has_duplicate_annotations(annotations.get(i, ())) for i in waiting)
    found = find_annotated(annotations, set(loop.pool.image_ids))
    return limit - n_servable, [t for t in found if t.task_id not in waiting | accepted]


def _reopen(loop: Loop, tasks: Sequence[AnnotatedTask]) -> None:
    if not tasks:
        return
    for task in tasks:
        loop.project.reopen(task.task_id, task.n_annotators + 1)
    read_changes(loop.project, loop.store)
    order_open_tasks(loop)  # Label Studio serves only tasks that have a prediction of this version
    log.info("reopened %d images for a second opinion", len(tasks))
