"""Order the open tasks by the version in service, and keep what people see of them."""

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
from backend.labelstudio.project import OUR_DESCRIPTION
from backend.rounds.candidates import find_candidates
from backend.rounds.learning_curve import NO_MODEL, in_service
from backend.rounds.loop import Loop
from backend.store.locks import lock
from backend.store.open_image import OPEN_IMAGES_KEPT, OpenImage
from backend.store.version_meta import VERSION_NAME, Meta

log = logging.getLogger(__name__)

GUESSES_SHOWN = 3

Row = NDArray[np.float32]  # (classes,)


def refresh_predictions(loop: Loop, progress: Progress = lambda *_: None) -> int:
    """Give every open task the prediction of the version in service, then switch the order to it,
    and the project's description.

    Tasks that have it already are left alone, so that a call that died half-way can be repeated.
    """
    with lock(loop.root, "push"):
        refreshed = order_open_tasks(loop, progress)
        version = loop.registry.current()
        loop.project.set_description(description(version))
        return refreshed


def order_open_tasks(loop: Loop, progress: Progress = lambda *_: None) -> int:
    """Do the same but for the description; hold the push lock around it."""
    version = loop.registry.current()
    if version is None:
        return 0
    row_of = {image_id: row for row, image_id in enumerate(loop.pool.image_ids)}
    began = time.time()
    tasks = [task for task in loop.project.open_tasks() if task.image_id in row_of]
    if not tasks:
        # Label Studio refuses a version without predictions: the next push switches to it.
        loop.store.record_open_images(began, [])
        loop.store.record_success("refresh", ordered_by=version.version)
        return 0
    rows = [row_of[task.image_id] for task in tasks]
    strategy = resolve(
        loop.strategy, n_asked=loop.store.n_tasks(), n_classes=len(loop.pool.classes)
    )
    candidates = find_candidates(loop, version, strategy, rows, set(), progress)
    rng = np.random.default_rng([loop.seed, version.round])
    confidences = rank(strategy, candidates, rng)
    probs = candidates.probs
    assert probs is not None, "there is a version"
    _ask_again_first(loop, tasks, confidences, probs)
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
    record_open_images(
        loop,
        began,
        [
            show_open(
                loop,
                tasks[i].image_id,
                probs[i],
                confidences[i],
                is_again=tasks[i].awaits_second_opinion,
            )
            for i in first
        ],
    )
    loop.store.record_success("refresh", ordered_by=version.version)
    _delete_old_predictions(loop, datetime.now(UTC))
    return refreshed


def switch(loop: Loop, version: str) -> None:
    """Have Label Studio order its tasks by a version's predictions, of which there must be some."""
    if loop.project.model_version() != version:
        loop.project.switch_model_version(version)


def make_prediction(
    probs: Row, confidence: np.float32, names: Sequence[str], version: str
) -> Prediction:
    """Return what a version says about one image."""
    favourite = int(probs.argmax())
    return Prediction(
        label=names[favourite],
        probability=float(probs[favourite]),
        score=float(confidence),
        model_version=version,
    )


def show_open(
    loop: Loop,
    image_id: str,
    probs: Row | None,
    confidence: np.float32,
    *,
    is_again: bool = False,
) -> OpenImage:
    """Return an open image as people may see it."""
    guesses: list[tuple[str, float]] = []
    if probs is not None:
        likeliest = np.argsort(-probs, kind="stable")[:GUESSES_SHOWN]
        guesses = [(loop.names[row], float(probs[row])) for row in likeliest]
    return OpenImage(
        image_id=image_id,
        confidence=float(confidence),
        guesses=tuple(guesses),
        is_again=is_again,
        picture=loop.pool.thumbnail(image_id),
    )


def record_open_images(loop: Loop, read_at: float, images: Sequence[OpenImage]) -> None:
    """Keep what is open in the order of asking, for people to see without asking Label Studio."""
    newest = {image.image_id: image for image in images}.values()
    loop.store.record_open_images(read_at, sorted(newest, key=lambda i: i.confidence))


def description(version: Meta | None) -> str:
    """Say which version is in service, for people who look at the project in Label Studio."""
    round_, model = 0, NO_MODEL
    if version is not None:
        round_ = version.round
        model = in_service(version.version, version.validation, version.labels)
    return f"{OUR_DESCRIPTION} {round_}: {model}. Press Label All Tasks."


def _ask_again_first(
    loop: Loop, tasks: Sequence[Task], confidences: NDArray[np.float32], probs: NDArray[np.float32]
) -> None:
    """Put images that wait for a second opinion first, since another measure has chosen them; and
    hide from the second person what the version in service learned from the first.
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
    """Delete predictions of versions at least two back, once no open browser tab can still name
    them.

    A submit names the prediction that it was shown, and a task lock lives `task_lock_s`.
    """
    history = loop.registry.promotions()
    keep = {p.version for p in history[:2]}
    still_open = now - timedelta(seconds=loop.task_lock_s)
    # A version was superseded when the one after it (before it in the list) was promoted.
    keep |= {old.version for new, old in pairwise(history) if new.promoted_at > still_open}
    for version in loop.project.model_versions():
        if VERSION_NAME.fullmatch(version) and version not in keep:
            loop.project.delete_predictions(version)
