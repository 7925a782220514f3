"""Have annotators label the validation sample, and measure versions on these labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from backend.base.labeling import VALIDATION, Annotation, Asked, DeletedSkip, NewTask
from backend.labelstudio import task_data
from backend.people.validation_labels import MOST_ANNOTATORS
from backend.rounds.loop import Loop
from backend.rounds.observe import read_changes
from backend.rounds.ordering import order_open_tasks, without_guess
from backend.rounds.validation_reading import ValidationReading, read_validation
from backend.store.version_meta import Meta

log = logging.getLogger(__name__)

EVERY = 5  # one in this many new tasks asks for a validation label


def read_sample(loop: Loop) -> ValidationReading:
    """Decide the validation labels from the annotations that were last read."""
    return read_validation(
        loop.store, loop.classes, loop.validation_labels, may_reopen=loop.may_reopen
    )


def with_validation(loop: Loop) -> Loop:
    """Return the loop with the validation labels that annotators have given so far.

    If the pool's validation labels are known, the loop is returned unchanged.
    """
    if not loop.validation_labels:
        return loop
    class_of = {name: position for position, name in enumerate(loop.names)}
    labels = {
        loop.pool.canonical(image_id): class_of[label]
        for image_id, label in read_sample(loop).labels.items()
    }
    pool = replace(loop.pool, validation=loop.pool.sample.select(labels))
    return replace(loop, pool=pool)


def choose_sample_images(loop: Loop, count: int, *, is_rest: bool = False) -> list[str]:
    """Choose the validation images for `count` new tasks, in labeling order.

    One in EVERY tasks asks for a validation label, or all of them if `is_rest` is set, until
    VALIDATION_LABELS images are labeled or pending, or no image is left. The caller must hold the
    push lock and must have read the latest changes.
    """
    if not loop.validation_labels:
        return []
    reading = read_sample(loop)
    done = reading.progress
    due = (loop.store.n_queried() + count) // EVERY - len(reading.tasks)
    missing = done.wanted - done.labeled - done.pending
    share = count if is_rest else min(due, -(-count // EVERY))
    n_images = max(0, min(share, missing))
    # An image that was queried for training before it joined the sample has a biased answer.
    asked = {loop.pool.canonical(task.image_id) for task in loop.store.tasks()}
    asked |= loop.gone_images()
    return [i for i in loop.pool.sample.image_ids if i not in asked][:n_images]


def ask_sample(image_ids: Sequence[str], version: Meta | None) -> list[Asked]:
    """Return records that these validation images were queried at random, without a guess."""
    return [
        Asked(
            image_id=image_id,
            round=version.round if version else 0,
            strategy=VALIDATION,
            version=version.version if version else "",
        )
        for image_id in image_ids
    ]


def adopt_answers(loop: Loop) -> None:
    """Record as queried the validation images that people annotated without being asked.

    Annotators of an attached project may annotate any task. They saw no guess for these images, so
    their annotations can be used for validation. The caller must hold the push lock.
    """
    queried, annotated = loop.store.queried_images(), loop.store.annotated_images()
    adopted = [i for i in loop.pool.sample.image_ids if i in annotated and i not in queried]
    loop.store.record_asked(ask_sample(adopted, loop.registry.current()))


def sample_task(loop: Loop, asked: Asked, shown: str) -> NewTask:
    """Return a validation image's task, which does not reveal a guess."""
    data = task_data.write_asked(shown, asked, None if loop.settings.blind else "")
    return NewTask(asked.image_id, data, without_guess(asked.version) if asked.version else None)


def open_for_two(loop: Loop, image_ids: Sequence[str]) -> None:
    """Open new validation tasks to two annotators if at least two people are annotating now."""
    if not image_ids or not loop.may_reopen or read_sample(loop).n_active < 2:
        return
    new = set(image_ids)
    for task in loop.store.validation_tasks():
        if task.image_id in new:
            loop.project.reopen(task.task_id, 2)


def ask_sample_again(loop: Loop) -> None:
    """Ask a third annotator if two disagree, and ask a sole annotator again after a skip.

    Label Studio never serves a task again to an annotator who skipped it, so the skip is recorded
    here and deleted in Label Studio. The caller must hold the push lock.
    """
    reading = read_sample(loop)
    outcomes = {i: outcome for i, outcome in reading.outcomes.items() if outcome.must_ask}
    if not outcomes:
        return
    for task_id, outcome in outcomes.items():
        if outcome.needs_third:
            loop.project.reopen(task_id, MOST_ANNOTATORS)
        if outcome.skip is not None:
            _ask_once_more(loop, outcome.skip)
    read_changes(loop.project, loop.store)
    order_open_tasks(loop)  # Label Studio serves only tasks that have a prediction of this version
    log.info("reopened %d validation tasks", len(outcomes))


def _ask_once_more(loop: Loop, skip: Annotation) -> None:
    """Delete a skip in Label Studio, unless its annotator has answered in the meantime."""
    now = loop.project.annotations_of(skip.image_id).get(skip.task_id, ())
    if skip.annotator is None or not any(
        a.annotation_id == skip.annotation_id and a.was_skipped for a in now
    ):
        return
    deleted = DeletedSkip(skip.annotation_id, skip.image_id, skip.annotator)
    loop.store.record_deleted_skip(deleted)
    loop.project.delete_annotation(skip.annotation_id)
