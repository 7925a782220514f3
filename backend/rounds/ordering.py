"""Order the open tasks by the predictions of the version in service, and record that order."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from backend.asking.query import rank, resolve
from backend.base.labeling import Prediction, Task
from backend.base.progress import Progress
from backend.people.consensus import Row
from backend.rounds.accuracy import describe_project
from backend.rounds.loop import Loop
from backend.rounds.scoring import find_candidates
from backend.store.files import lock
from backend.store.project_rows import OPEN_IMAGES_KEPT, OpenImage
from backend.store.version_meta import VERSION_NAME

log = logging.getLogger(__name__)

GUESSES_SHOWN = 3


def refresh_predictions(loop: Loop, progress: Progress = lambda *_: None) -> int:
    """Order the open tasks by the version in service; describe that version in Label Studio.

    Returns the number of new predictions.
    """
    with lock(loop.root, "push"):
        refreshed = order_open_tasks(loop, progress)
        loop.project.set_description(describe_project(loop.registry.current()))
        return refreshed


def order_open_tasks(loop: Loop, progress: Progress = lambda *_: None) -> int:
    """Import predictions of the version in service, then have Label Studio order tasks by them.

    The caller must hold the push lock. Tasks that already have a prediction of this version are
    skipped, so an interrupted call can be repeated. Returns the number of new predictions.
    """
    version = loop.registry.current()
    if version is None:
        return 0
    row_of = {image_id: row for row, image_id in enumerate(loop.pool.image_ids)}
    began = time.time()
    tasks = [t for t in loop.project.open_tasks() if loop.pool.canonical(t.image_id) in row_of]
    if not tasks:
        # Label Studio refuses a version without predictions; the next push will switch to it.
        loop.store.record_open_images(began, [])
        loop.store.record_success("refresh", ordered_by=version.version)
        return 0
    rows = [row_of[loop.pool.canonical(task.image_id)] for task in tasks]
    strategy = resolve(
        loop.settings.strategy, n_asked=loop.store.n_tasks(), n_classes=len(loop.pool.classes)
    )
    candidates = find_candidates(loop, version, strategy, rows, set(), progress)
    rng = np.random.default_rng([loop.seed, version.round])
    confidences = rank(strategy, candidates, rng)
    probs = candidates.probs
    assert probs is not None, "there is a version"
    _put_second_opinions_first(loop, tasks, confidences, probs)
    refreshed = loop.project.import_predictions(
        {
            task.task_id: make_prediction(probs[i], confidences[i], loop.names, version.version)
            for i, task in enumerate(tasks)
            if version.version not in task.versions
        }
    )
    switch(loop, version.version)
    log.info("%d open tasks re-ordered by %s", len(tasks), version.version)
    first = np.argsort(confidences, kind="stable")[:OPEN_IMAGES_KEPT]
    shown = [
        show_open(
            loop,
            tasks[i].image_id,
            probs[i],
            confidences[i],
            awaits_second_opinion=tasks[i].awaits_second_opinion,
        )
        for i in first
    ]
    record_open_images(loop, began, shown)
    loop.store.record_success("refresh", ordered_by=version.version)
    _delete_old_predictions(loop, datetime.now(UTC))
    return refreshed


def switch(loop: Loop, version: str) -> None:
    """Order Label Studio's tasks by a version that has predictions."""
    if loop.project.model_version() != version:
        loop.project.switch_model_version(version)


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


def likeliest(probs: Row, names: Sequence[str]) -> list[tuple[str, float]]:
    """Return the GUESSES_SHOWN most probable classes, each with its probability."""
    rows = np.argsort(-probs, kind="stable")[:GUESSES_SHOWN]
    return [(names[row], float(probs[row])) for row in rows]


def show_open(
    loop: Loop,
    image_id: str,
    probs: Row | None,
    confidence: np.float32,
    *,
    awaits_second_opinion: bool = False,
) -> OpenImage:
    """Return an open image with its picture and the model's guesses."""
    return OpenImage(
        image_id=image_id,
        confidence=float(confidence),
        guesses=() if probs is None else tuple(likeliest(probs, loop.names)),
        is_again=awaits_second_opinion,
        picture=loop.pool.thumbnail(image_id),
    )


def record_open_images(loop: Loop, read_at: float, images: Sequence[OpenImage]) -> None:
    """Record the open images in the order of the tasks; the last entry for an image wins."""
    newest = {image.image_id: image for image in images}.values()
    loop.store.record_open_images(read_at, sorted(newest, key=lambda i: i.confidence))


def _put_second_opinions_first(
    loop: Loop, tasks: Sequence[Task], confidences: NDArray[np.float32], probs: NDArray[np.float32]
) -> None:
    """Put images that await a second opinion first, with probabilities from before their
    annotation.

    The version in service was trained on the first annotation; its guess would only repeat that
    annotation to the second annotator.
    """
    again = [i for i, task in enumerate(tasks) if task.awaits_second_opinion]
    if not again:
        return
    n_classes = probs.shape[1]
    unbiased = loop.store.fold_probs(n_classes) | loop.store.asked_probs(n_classes)
    for i in again:
        confidences[i] = 0.0
        probs[i] = unbiased.get(tasks[i].image_id, probs[i])


def _delete_old_predictions(loop: Loop, now: datetime) -> None:
    """Delete the predictions of all but the last two versions once no open task can refer to them.

    An annotation refers to the prediction that was displayed with it, and a task stays locked for
    `task_lock_s` seconds.
    """
    history = loop.registry.promotions()
    keep = {p.version for p in history[:2]}
    still_open = now - timedelta(seconds=loop.settings.task_lock_s)
    # Newest first: each version was superseded when the entry before it in this list was promoted.
    keep |= {old.version for new, old in pairwise(history) if new.promoted_at > still_open}
    for version in loop.project.model_versions():
        if VERSION_NAME.fullmatch(version) and version not in keep:
            loop.project.delete_predictions(version)
