"""Order the open tasks by the predictions of the version in service, and record that order."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from backend.asking.query import rank, resolve
from backend.base.labeling import Prediction, Task
from backend.base.progress import Progress
from backend.people.consensus import Row
from backend.rounds.accuracy import describe_project
from backend.rounds.finish_reading import read_finish
from backend.rounds.loop import Loop, push_lock
from backend.rounds.measuring import read_progress
from backend.rounds.order_problem import may_switch
from backend.rounds.scoring import find_candidates
from backend.rounds.validation_reading import read_validation
from backend.store.project_rows import OPEN_IMAGES_KEPT, OpenImage
from backend.store.version_meta import UNTRAINED, VERSION_NAME, Meta

log = logging.getLogger(__name__)

GUESSES_SHOWN = 3


def refresh_predictions(loop: Loop, progress: Progress = lambda *_: None) -> int:
    """Order the open tasks by the predictions of the version in service, and describe that version
    in Label Studio.

    Returns the number of new predictions.
    """
    with push_lock(loop):
        refreshed = order_open_tasks(loop, progress)
        loop.project.set_description(describe_project(loop.registry.current(), read_progress(loop)))
        return refreshed


def order_open_tasks(loop: Loop, progress: Progress = lambda *_: None) -> int:
    """Import predictions of the version in service, then have Label Studio order tasks by them.

    The caller must hold the push lock. Tasks that already have a prediction of this version are
    skipped, so an interrupted call can be repeated. Before the first version, tasks are ordered
    only if the project has other open tasks, as attached projects have. Returns the number of new
    predictions.
    """
    version = loop.registry.current()
    if version is None and not (loop.is_attached or loop.store.n_foreign_open()):
        return 0
    name = version.version if version else UNTRAINED
    began = time.time()
    tasks, of_sample = _open_tasks(loop)
    if not tasks and not of_sample:
        # Label Studio refuses a version without predictions, so let the next push switch to it.
        loop.store.record_open_images(began, [])
        loop.store.record_success("refresh", ordered_by=name)
        return 0
    confidences: NDArray[np.float32] = np.zeros(len(tasks), np.float32)
    probs: NDArray[np.float32] | None = None
    if version is not None:
        confidences, probs = _rank(loop, version, tasks, progress)
    predictions = {
        task.task_id: without_guess(name)
        if probs is None
        else make_prediction(probs[i], confidences[i], loop.names, name)
        for i, task in enumerate(tasks)
    } | {task.task_id: without_guess(name) for task in of_sample}
    done = loop.project.predicted_by(name, predictions.keys())
    refreshed = loop.project.import_predictions(
        {task_id: own for task_id, own in predictions.items() if task_id not in done}
    )
    now_by = switch(loop, name)
    log.info("%d open tasks have predictions of %s", len(predictions), name)
    first = np.argsort(confidences, kind="stable")[:OPEN_IMAGES_KEPT]
    known = {*loop.pool.image_ids, *loop.pool.sample.image_ids}
    # An image of the acceptance sample keeps its task even if it has left the pool.
    with_picture = [t for t in of_sample if loop.pool.canonical(t.image_id) in known]
    shown = [_show(loop, task, None, 0.0) for task in with_picture[:OPEN_IMAGES_KEPT]]
    shown += [
        _show(loop, tasks[i], None if probs is None else probs[i], confidences[i]) for i in first
    ]
    record_open_images(loop, began, shown)
    loop.store.record_success("refresh", ordered_by=name)
    _delete_old_predictions(loop, now_by, datetime.now(UTC))
    return refreshed


def switch(loop: Loop, version: str) -> str:
    """Make Label Studio order its tasks by this version's predictions, which must exist.

    If the team of an attached project chose another order, the order is not changed. Returns the
    version that orders the tasks now.
    """
    order, has_ordered = loop.project.task_order(), loop.store.facts().has_ordered
    if not may_switch(order, is_attached=loop.is_attached, has_ordered=has_ordered):
        return order.model_version
    if order.model_version != version:
        loop.project.switch_model_version(version)
    if loop.is_attached and not has_ordered:
        loop.store.record(has_ordered=True)
    return version


def make_prediction(
    probs: Row, confidence: np.float32, names: Sequence[str], version: str
) -> Prediction:
    """Return a version's prediction for one image."""
    favourite = int(probs.argmax())
    return Prediction(
        label=names[favourite],
        probability=float(probs[favourite]),
        score=float(confidence),
        model_version=version,
    )


def without_guess(version: str) -> Prediction:
    """Return a prediction that shows no guess and puts its task first."""
    return Prediction(label=None, probability=None, score=0.0, model_version=version)


def likeliest(probs: Row, names: Sequence[str]) -> list[tuple[str, float]]:
    """Return the GUESSES_SHOWN most probable classes, each with its probability.

    Classes with probability 0 are left out: the version does not know them, or they were removed.
    """
    rows = np.argsort(-probs, kind="stable")[:GUESSES_SHOWN]
    return [(names[row], float(probs[row])) for row in rows if probs[row] > 0]


def show_open(
    loop: Loop,
    image_id: str,
    probs: Row | None,
    confidence: float,
    *,
    awaits_second_opinion: bool = False,
) -> OpenImage:
    """Return an open image with its picture and the model's guesses, if any are shown."""
    return OpenImage(
        image_id=image_id,
        confidence=float(confidence),
        guesses=() if probs is None else tuple(likeliest(probs, loop.names)),
        is_again=awaits_second_opinion,
        is_validation=loop.pool.is_in_sample(image_id),
        picture=loop.pool.thumbnail(image_id),
    )


def record_open_images(loop: Loop, read_at: float, images: Sequence[OpenImage]) -> None:
    """Record the open images in the order of the tasks; the last entry for an image wins."""
    accepted = loop.finish_store.asked_images()
    newest = {
        image.image_id: image.model_copy(update={"is_acceptance": image.image_id in accepted})
        for image in images
    }.values()
    loop.store.record_open_images(read_at, sorted(newest, key=lambda i: i.confidence))


def _show(loop: Loop, task: Task, probs: Row | None, confidence: float) -> OpenImage:
    is_again = task.awaits_second_opinion
    return show_open(loop, task.image_id, probs, confidence, awaits_second_opinion=is_again)


def _open_tasks(loop: Loop) -> tuple[list[Task], list[Task]]:
    """Return the open tasks that show a guess, and the open tasks of sampled images, which do not.

    A sampled image that one annotator skipped is still open to the others. Sampled images whose
    label is decided are left out: Label Studio may still wait for an annotator who has left.
    """
    reading = read_validation(
        loop.store, loop.classes, loop.validation_labels, may_reopen=loop.may_reopen
    )
    pending = {i for i, outcome in reading.outcomes.items() if outcome.state == "pending"}
    acceptance = read_finish(loop.root, loop.classes, may_reopen=loop.may_reopen)
    accepted = set(acceptance.pending) if acceptance else set()
    of_try = loop.finish_store.asked_tasks()
    of_pool, of_sample = set(loop.pool.image_ids), set(loop.pool.sample.image_ids)
    found = loop.project.open_tasks(pending | accepted, _queried_tasks(loop, pending | accepted))
    tasks = [(task, loop.pool.canonical(task.image_id)) for task in found]
    return (
        [task for task, i in tasks if i in of_pool and task.task_id not in of_try],
        [
            task
            for task, i in tasks
            if task.task_id in accepted or (i in of_sample and task.task_id in pending)
        ],
    )


def _queried_tasks(loop: Loop, pending: Set[int]) -> set[int] | None:
    """Return the tasks that may need predictions, or None if every open task may need one.

    In a project that we created, every open task may need one unless foreign tasks are open. If the
    project asks for several annotations per task, Label Studio serves tasks that already have an
    annotation before all others, so predictions would not change their order.
    """
    if not loop.is_attached and not loop.store.n_foreign_open():
        return None
    has_reopened = loop.may_reopen and loop.store.facts().annotations_per_task == 1
    return {
        task.task_id
        for task in loop.store.tasks()
        if task.is_open or (has_reopened if task.awaits_second_opinion else task.task_id in pending)
    }


def _rank(
    loop: Loop, version: Meta, tasks: Sequence[Task], progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the confidences that order the tasks, and the probabilities to show."""
    row_of = {image_id: row for row, image_id in enumerate(loop.pool.image_ids)}
    rows = [row_of[loop.pool.canonical(task.image_id)] for task in tasks]
    n_asked = len(loop.store.tasks()) - len(loop.store.validation_tasks())
    strategy = resolve(loop.strategy, n_asked=n_asked, n_classes=len(loop.classes.current))
    candidates = find_candidates(loop, version, strategy, rows, set(), progress)
    confidences = rank(strategy, candidates, np.random.default_rng([loop.seed, version.round]))
    assert candidates.probs is not None, "there is a version"
    probs = candidates.probs
    _put_second_opinions_first(loop, tasks, confidences, probs)
    return confidences, probs


def _put_second_opinions_first(
    loop: Loop, tasks: Sequence[Task], confidences: NDArray[np.float32], probs: NDArray[np.float32]
) -> None:
    """Put images that await a second opinion first, with probabilities from before they were
    annotated.

    The version in service was trained on the first annotation, so its guess would only show that
    annotation to the second annotator.
    """
    again = [i for i, task in enumerate(tasks) if task.awaits_second_opinion]
    if not again:
        return
    n_classes = probs.shape[1]
    unbiased = loop.classes.align_rows(
        loop.store.fold_probs(n_classes) | loop.store.asked_probs(n_classes)
    )
    for i in again:
        confidences[i] = 0.0
        probs[i] = unbiased.get(tasks[i].image_id, probs[i])


def _delete_old_predictions(loop: Loop, ordering: str, now: datetime) -> None:
    """Delete the predictions of all but the last two versions once no open task can refer to them.

    An annotation refers to the prediction that was displayed with it, and a task stays locked for
    `task_lock_s` seconds. The version `ordering`, which orders the tasks, also keeps its
    predictions.
    """
    history = loop.registry.promotions()
    keep = {ordering, *(p.version for p in history[:2])}
    still_open = now - timedelta(seconds=loop.settings.task_lock_s)
    if not history or history[-1].promoted_at > still_open:
        keep.add(UNTRAINED)
    # Newest first: each version was superseded when the entry before it in this list was promoted.
    keep |= {old.version for new, old in pairwise(history) if new.promoted_at > still_open}
    for version in loop.project.model_versions():
        if VERSION_NAME.fullmatch(version) and version not in keep:
            loop.project.delete_predictions(version)
