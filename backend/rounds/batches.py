"""Ask the next images: choose a batch, make tasks of it, and ask some images a second time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.asking.query import Candidates, Query, resolve, select
from backend.base.arrays import Probs
from backend.base.labeling import Annotation, Asked, NewTask, Task
from backend.base.progress import Progress
from backend.base.strategy_names import ResolvedName, StrategyName
from backend.labelstudio import task_data
from backend.people.second_opinions import (
    AnnotatedTask,
    active_annotators,
    annotated_by_fewer_than,
    choose_second_opinions,
    find_annotated,
    has_duplicate_annotations,
)
from backend.rounds.candidates import find_candidates
from backend.rounds.decide import batch_is_due
from backend.rounds.labels import read_labels
from backend.rounds.loop import Loop
from backend.rounds.observe import read_changes, read_everything_changed
from backend.rounds.ordering import (
    GUESSES_SHOWN,
    make_prediction,
    order_open_tasks,
    record_open_images,
    show_open,
    switch,
)
from backend.rounds.versions import has_pretrained_body, pool_probs
from backend.store.locks import lock
from backend.store.version_meta import Meta

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Images about to be asked, most informative first, and what the model thinks of them."""

    image_ids: tuple[str, ...]
    confidences: np.ndarray[Any, np.dtype[np.float32]]  # (images,), low = ask first
    strategy: ResolvedName
    version: Meta | None
    probs: Probs | None  # (images, classes), None without a model


def top_up(
    loop: Loop, *, is_new_version: bool = False, progress: Progress = lambda *_: None
) -> int:
    """Ask the next batch if one is due, part of it as second opinions if OVERLAP wants that; return
    the number of new tasks.
    """
    # A round is done when it has asked its own batch.
    rounds_done = loop.registry.last_round() - is_new_version
    with lock(loop.root, "push"):
        read_everything_changed(loop.project, loop.store)
        found: dict[str, float] = {}
        pushed = 0
        if loop.overlap in ("2", "3"):
            found["looked_for_again"] = loop.store.facts().revision
            _ask_everything_again(loop, int(loop.overlap))
        if batch_is_due(
            loop.store.n_open(),
            loop.batch_size,
            rounds_done,
            loop.rounds,
            is_new_version=is_new_version,
        ):
            n_again = _ask_doubtful_again(loop, progress) if loop.overlap == "auto" else 0
            batch = choose_batch(loop, loop.batch_size - n_again, loop.strategy, progress)
            pushed = push(loop, batch)
            found["exhausted_at"] = 0.0 if pushed or n_again else time.time()
        loop.store.record_success("top_up", **found)
    return pushed


def choose_batch(
    loop: Loop, count: int, strategy: StrategyName, progress: Progress = lambda *_: None
) -> Batch:
    """Choose the `count` most informative of the images in no task yet; hold the push lock around
    it, and read what changed before.

    Before there is a version, strategies that need its probabilities choose at random.
    """
    tasks = loop.store.tasks()
    _delete_duplicate_tasks(loop, tasks)
    asked = {task.image_id for task in tasks}
    rows = _rows_not_in(loop, asked)
    version = loop.registry.current()
    resolved = resolve(strategy, n_asked=len(asked), n_classes=len(loop.pool.classes))
    candidates = find_candidates(loop, version, resolved, rows, asked, progress)
    rng = np.random.default_rng([loop.seed, len(asked)])
    query = select(resolved, candidates, count, rng)
    return _batch(query, candidates, version)


def push(loop: Loop, batch: Batch) -> int:
    """Make tasks of a batch, predictions attached; hold the push lock as in `choose_batch`."""
    if not batch.image_ids:
        log.info("the pool is exhausted: every image has been asked")
        return 0
    asked = [_asked(batch, row) for row in range(len(batch.image_ids))]
    new_tasks = [
        NewTask(
            image_id=of_image.image_id,
            data=task_data.write_asked(
                loop.pool.data_uri(of_image.image_id),
                of_image,
                None if loop.is_blind else _hint(batch, row, loop.names),
            ),
            prediction=(
                None
                if batch.probs is None or batch.version is None
                else make_prediction(
                    batch.probs[row], batch.confidences[row], loop.names, batch.version.version
                )
            ),
        )
        for row, of_image in enumerate(asked)
    ]
    began = time.time()
    loop.store.record_asked(asked)  # before there are tasks, so that no answer is without it
    pushed = loop.project.import_tasks(new_tasks)
    read_changes(loop.project, loop.store)
    if batch.version is not None:
        switch(loop, batch.version.version)
    still_open = {
        task.image_id for task in loop.store.tasks() if task.is_open or task.awaits_second_opinion
    }
    before = [image for image in loop.store.open_images() if image.image_id in still_open]
    shown = [
        show_open(
            loop,
            image_id,
            None if batch.probs is None else batch.probs[row],
            batch.confidences[row],
        )
        for row, image_id in enumerate(batch.image_ids)
    ]
    record_open_images(loop, began, [*before, *shown])
    log.info(
        "asked %d images by %s (%s)",
        pushed,
        batch.strategy,
        batch.version.version if batch.version else "no model yet",
    )
    return pushed


def _rows_not_in(loop: Loop, asked: Set[str]) -> list[int]:
    return [row for row, image_id in enumerate(loop.pool.image_ids) if image_id not in asked]


def _ask_everything_again(loop: Loop, n_answers: int) -> None:
    """Open answered tasks to other people, the oldest first and so many that nobody has to wait."""
    waiting = [task for task in loop.store.tasks() if task.awaits_second_opinion]
    annotations = loop.store.annotations()
    n_free = 2 * loop.batch_size - _n_servable(waiting, annotations)
    if n_free <= 0:
        return
    answered = _answered(loop, annotations, waiting)
    if has_pretrained_body(loop):
        # The version in service has learned the first answer: wait for an opinion that has not.
        probs = read_labels(loop, annotations).probs
        answered = [task for task in answered if task.image_id in probs]
    _ask_again(loop, annotated_by_fewer_than(answered, n_answers)[:n_free])


def _answered(
    loop: Loop, annotations: Mapping[int, Sequence[Annotation]], waiting: Sequence[Task]
) -> list[AnnotatedTask]:
    there = {task.task_id for task in waiting}
    found = find_annotated(annotations, set(loop.pool.image_ids))
    return [task for task in found if task.task_id not in there]


def _n_servable(waiting: Sequence[Task], annotations: Mapping[int, Sequence[Annotation]]) -> int:
    return sum(not has_duplicate_annotations(annotations.get(task.task_id, ())) for task in waiting)


def _ask_doubtful_again(loop: Loop, progress: Progress) -> int:
    """Open answered tasks to others if that is worth more than new images; return how many."""
    version = loop.registry.current()
    tasks = loop.store.tasks()
    waiting = [task for task in tasks if task.awaits_second_opinion]
    annotations = loop.store.annotations()
    n_free = loop.batch_size - _n_servable(waiting, annotations)
    active = active_annotators(annotations)
    answered = _answered(loop, annotations, waiting)
    if version is None or n_free <= 0 or len(active) < 2 or not answered:
        return 0
    reading = read_labels(loop, annotations)
    rows = _rows_not_in(loop, {task.image_id for task in tasks})
    new_probs = pool_probs(loop, version, progress)[rows]
    chosen = choose_second_opinions(
        answered, reading.answers, reading.probs, new_probs, active, n_free
    )
    _ask_again(loop, chosen)
    return len(chosen)


def _ask_again(loop: Loop, chosen: Sequence[AnnotatedTask]) -> None:
    if not chosen:
        return
    for task in chosen:
        loop.project.reopen(task.task_id, task.n_annotators + 1)
    read_changes(loop.project, loop.store)
    order_open_tasks(loop)  # people get only tasks with a prediction of the version in service
    log.info("asked %d images again, for a second opinion", len(chosen))


def _batch(query: Query, candidates: Candidates, version: Meta | None) -> Batch:
    probs = None
    if candidates.probs is not None:
        row_of = {image_id: row for row, image_id in enumerate(candidates.image_ids)}
        probs = candidates.probs[[row_of[image_id] for image_id in query.image_ids]]
    return Batch(query.image_ids, query.confidences, query.strategy, version, probs)


def _asked(batch: Batch, row: int) -> Asked:
    """Return how an image is asked, fixed at this moment."""
    version = batch.version
    return Asked(
        image_id=batch.image_ids[row],
        round=version.round if version else 0,
        strategy=batch.strategy,
        version=version.version if version else "",
        confidence=float(batch.confidences[row]),
        probs=() if batch.probs is None else tuple(map(float, batch.probs[row])),
    )


def _hint(batch: Batch, row: int, names: Sequence[str]) -> str:
    """What the version that asks an image thinks of it, as the labeling view may show it."""
    if batch.probs is None or batch.version is None:
        return "asked before there was a model: no guess"
    likely = np.argsort(-batch.probs[row], kind="stable")[:GUESSES_SHOWN]
    guesses = ", ".join(f"{names[i]} {100 * batch.probs[row, i]:.0f} %" for i in likely)
    return f"{batch.version.version} guessed when it asked: {guesses}"


def _delete_duplicate_tasks(loop: Loop, tasks: Sequence[Task]) -> None:
    """Delete open tasks whose image an earlier task asks already.

    There are none, unless a push was killed while Label Studio was still storing its tasks and
    another push read the tasks before they were there.
    """
    first_of: dict[str, int] = {}
    duplicates = []
    for task in sorted(tasks, key=lambda t: (t.is_open, t.task_id)):
        if not task.image_id:  # a person's own task
            continue
        if first_of.setdefault(task.image_id, task.task_id) != task.task_id and task.is_open:
            duplicates.append(task.task_id)
    if duplicates:
        log.warning("deleting %d open tasks that ask an image a second time", len(duplicates))
        loop.project.delete_tasks(duplicates)
        loop.store.forget_tasks(duplicates, time.time())
