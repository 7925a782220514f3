"""Have the model label the rest of the images, and have people check a random sample first."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from backend.base.errors import FinishError
from backend.base.progress import Progress
from backend.measures.finish_plan import FinishPlan
from backend.rounds.finish_progress import percent
from backend.rounds.finish_reading import FinishReading, read_finish
from backend.rounds.loop import Loop, push_lock
from backend.rounds.observe import read_everything_changed
from backend.rounds.prospect import Prospect, look_ahead
from backend.rounds.tasks_without_guess import ask_again
from backend.store.finish_store import FinishTry

log = logging.getLogger(__name__)


def follow(loop: Loop, progress: Progress) -> None:
    """Begin the try that a person asked for, judge the acceptance sample, and look ahead.

    Raises FinishError if the model cannot label enough images with the promise that a person asked
    for.
    """
    revision = loop.store.facts().revision
    if loop.store.facts().finish_wanted is not None or loop.finish_store.asking():
        with push_lock(loop):
            read_everything_changed(loop.project, loop.store)
            revision = loop.store.facts().revision
            _begin_wanted(loop, progress)
            judge(loop)
    loop.store.record_success("finish", finish_checked=revision)
    record_outlook(loop, progress)


def begin(loop: Loop, plan: FinishPlan, prospect: Prospect) -> FinishTry:
    """Begin a try: fix its images, their labels and the acceptance sample.

    The ranker then asks people to label the sample. The caller must hold the push lock and must
    have read the latest changes. Raises FinishError if another try is asking.
    """
    images = prospect.images(plan)
    begun = FinishTry(
        number=prospect.try_number,
        started_at=time.time(),
        version=prospect.version,
        max_error=plan.max_error,
        share=plan.share,
        threshold=plan.threshold,
        n_images=len(images),
        n_sample=plan.n_sample,
        allowed_errors=plan.allowed_errors,
        n_unlabeled=len(prospect.image_ids),
    )
    rng = np.random.default_rng([loop.seed, begun.number])
    rows = rng.permutation(len(images))[: plan.n_sample]
    loop.finish_store.begin(begun, images, [images[row].image_id for row in rows])
    loop.store.record(exhausted_at=0.0)
    log.info(
        "try %d: %s may label %d images (at most %s wrong) if people find at most %d errors in %d",
        begun.number,
        begun.version,
        begun.n_left,
        percent(begun.max_error),
        begun.allowed_errors,
        begun.n_sample,
    )
    return begun


def judge(loop: Loop) -> FinishReading | None:
    """End the try if its acceptance sample is decided; otherwise, ask for the labels that it needs.

    Returns None if no sample is being labeled. The caller must hold the push lock and must have
    read the latest changes.
    """
    reading = read_finish(loop.root, loop.classes, may_reopen=loop.may_reopen)
    if reading is None:
        return None
    if reading.state == "asking":
        ask_again(loop, reading.pending)
        return reading
    number, n_errors = reading.current.number, reading.n_errors
    loop.finish_store.end(number, reading.state, n_errors, time.time(), reading.n_decided)
    loop.store.record(exhausted_at=0.0, finish_outlook_of="")  # other images can be queried now
    log.info(
        "try %d has %s: %d errors in %d images (%d allowed)",
        reading.current.number,
        reading.state,
        reading.n_errors,
        reading.n_decided,
        reading.current.allowed_errors,
    )
    return reading


def cancel(loop: Loop) -> FinishTry:
    """Give back the images of the try that is asking or has passed.

    The try's part of the risk stays spent. The caller must hold the push lock. Raises FinishError
    if there is nothing to cancel.
    """
    current = loop.finish_store.current()
    if current is None:
        raise FinishError("there is nothing to cancel: no acceptance sample is being labeled")
    reading = read_finish(loop.root, loop.classes, may_reopen=loop.may_reopen)
    n_errors = reading.n_errors if reading else current.n_errors
    n_decided = reading.n_decided if reading else current.n_decided
    loop.finish_store.end(current.number, "canceled", n_errors, time.time(), n_decided)
    loop.store.record(exhausted_at=0.0, finish_outlook_of="")
    return current


def choose_acceptance_images(loop: Loop, batch_size: int) -> list[str]:
    """Choose the next images of the acceptance sample to query, in random order.

    Returns no images while a whole batch of the sample is open. Also records which images the pool
    has lost, because they count as errors. The caller must hold the push lock and must have read
    the latest changes.
    """
    reading = read_finish(loop.root, loop.classes, may_reopen=loop.may_reopen)
    if reading is None or reading.n_open >= batch_size:
        return []
    number = reading.current.number
    lost = _find_lost(loop, reading.unasked)
    if lost:
        log.warning("%d images of the acceptance sample are no longer in the pool", len(lost))
        loop.finish_store.record_lost(number, lost)
        loop.store.record(finish_checked=0)  # so that the sample is judged
    known = set(loop.pool.image_ids)
    chosen: list[str] = []
    for image_id in reading.unasked:
        now = loop.pool.canonical(image_id)
        if image_id in lost or now not in known or len(chosen) == batch_size:
            continue
        if now != image_id:
            loop.finish_store.record_moved(number, image_id, now)
        chosen.append(now)
    if not chosen and len(lost) < len(reading.unasked):
        loop.store.record(exhausted_at=time.time())  # moved files have no scores yet: try later
    return chosen


def record_outlook(loop: Loop, progress: Progress) -> None:
    """Record how many images the version in service could label, if that is not known yet."""
    version, facts = loop.registry.current(), loop.store.facts()
    if version is None or version.version == facts.finish_outlook_of:
        return
    prospect = look_ahead(loop, progress)
    loop.store.record(
        finish_outlook=[outlook.model_dump() for outlook in prospect.outlook()],
        finish_outlook_of=prospect.version,
        finish_outlook_at=time.time(),
        unlabeled_images=_count_unlabeled(loop),
    )


def _begin_wanted(loop: Loop, progress: Progress) -> None:
    """Begin the try that a person asked for, if there is one."""
    max_error = loop.store.facts().finish_wanted
    if max_error is None:
        return
    try:
        if loop.finish_store.asking():
            return
        prospect = look_ahead(loop, progress)
        plan = prospect.plan(max_error)
        if plan is None:
            raise FinishError(prospect.advice(max_error))
        begin(loop, plan, prospect)
    finally:
        loop.store.record(finish_wanted=None)


def _count_unlabeled(loop: Loop) -> int:
    """Count the images in the pool that no person has labeled, whether decoded or not."""
    annotated = set(map(loop.pool.canonical, loop.store.annotated_images()))
    labelable = set(loop.pool.image_ids) - loop.gone_images() - loop.pool.removed_ids
    return len(labelable - annotated) + loop.pool.n_waiting


def _find_lost(loop: Loop, image_ids: Sequence[str]) -> set[str]:
    """Return the images that can never be queried because they were removed or are held out now."""
    pool, gone = loop.pool, loop.gone_images() | loop.pool.removed_ids
    now = {image_id: pool.canonical(image_id) for image_id in image_ids}
    known = set(pool.image_ids) if pool.source is None else set(now.values())
    return {
        image_id
        for image_id, found in now.items()
        if found in gone or found not in known or pool.is_in_sample(found)
    }
