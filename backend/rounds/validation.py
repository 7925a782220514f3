"""Have annotators label the validation sample, and measure versions on these labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backend.base.labeling import VALIDATION
from backend.rounds.loop import Loop
from backend.rounds.tasks_without_guess import ask_again, record_random
from backend.rounds.validation_reading import ValidationReading, read_validation

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


def adopt_answers(loop: Loop) -> None:
    """Record as queried the validation images that people annotated without being asked.

    Annotators of an attached project may annotate any task. They saw no guess for these images, so
    their annotations can be used for validation. The caller must hold the push lock.
    """
    queried, annotated = loop.store.queried_images(), loop.store.annotated_images()
    adopted = [i for i in loop.pool.sample.image_ids if i in annotated and i not in queried]
    loop.store.record_asked(record_random(adopted, VALIDATION, loop.registry.current()))


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

    The caller must hold the push lock.
    """
    ask_again(loop, read_sample(loop).outcomes)
