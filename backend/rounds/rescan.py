"""Find images that were added to the pool or removed from it, and prepare new images."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.images import pool as pools
from backend.images.index import Merged
from backend.images.pool import Pool
from backend.rounds.classes import pool_class_notice
from backend.rounds.embeddings import embeddings_of
from backend.rounds.loop import Loop, push_lock
from backend.rounds.observe import read_everything_changed
from backend.rounds.scoring import pool_probs, score_sample
from backend.store.project_record import change_record, read_record

log = logging.getLogger(__name__)

DECODE_FOR_S = 60.0  # short, because a training run may become due


def rescan(loop: Loop, *, must_list: bool, progress: Progress) -> None:
    """Decode, embed and score new images; with `must_list`, list the pool's source first.

    Raises PoolError if the source cannot be reached; in that case, no image counts as removed.
    """
    began, revision = time.time(), loop.store.facts().tasks_revision
    before = loop.pool
    pool, changes = pools.rescan(
        before, loop.seed, must_list=must_list, budget_s=DECODE_FOR_S, progress=progress
    )
    loop = replace(loop, pool=pool)
    must_close = must_list and pool.removed_ids and not loop.is_attached
    n_closed = close_tasks_of_removed_images(loop) if must_close else 0
    n_decoded = len(pool.queryable_ids - before.queryable_ids)
    version = loop.registry.current()
    if version is not None:
        embeddings_of(loop, version, progress)  # first, so that scoring can reuse the embeddings
        pool_probs(loop, version, progress)
        if pool.sample.image_ids:
            score_sample(loop, version, progress)
    record_pool(loop, began, is_listed=must_list, is_larger=bool(n_decoded))
    if must_list:
        loop.store.record(listed_revision=revision)
    _record_sample(loop)
    _log_new_classes(loop)
    if line := _summary(pool, changes, n_decoded, n_closed):
        log.info("%s", line)
    if pool.fault:
        raise PoolError(
            f"POOL={pool.name}: none of the images to be decoded can be read ({pool.fault}): check "
            "that the disk is mounted, or that the credentials are right"
        )


def _log_new_classes(loop: Loop) -> None:
    """Log the classes in the pool that annotators cannot choose."""
    if (record := read_record(loop.root)) is None:
        return
    if notice := pool_class_notice(record, loop.store.facts().pool_classes):
        log.warning("%s", notice)


def _record_sample(loop: Loop) -> None:
    """Record that images have joined the validation sample, so that more labels are wanted."""
    record, n_images = read_record(loop.root), loop.pool.n_held_out
    if record is None or not record.validation_labels:
        return
    if n_images > (record.validation_images or 0):
        change_record(loop.root, lambda r: r.model_copy(update={"validation_images": n_images}))


def record_pool(loop: Loop, began: float, *, is_listed: bool, is_larger: bool) -> None:
    """Record how many images the pool has, and that a search for new images began at `began`."""
    facts: dict[str, Any] = {}
    if is_listed:
        found = loop.pool.source.index.classes if loop.pool.source else ()
        facts = {"rescanned_at": began, "pool_classes": found}
    if is_larger:
        facts["exhausted_at"] = 0.0  # new images can be queried at once
    loop.store.record_success(
        "rescan",
        decoded_at=began,
        pool_images=len(loop.pool.queryable_ids),
        undecoded_images=loop.pool.n_waiting,
        **facts,
    )


def close_tasks_of_removed_images(loop: Loop) -> int:
    """Delete the unannotated tasks of removed images; return their number.

    Keeps the pixels of annotated images, and the tasks of the acceptance sample.
    """
    with push_lock(loop):
        read_everything_changed(loop.project, loop.store)
        removed, accepted = loop.pool.removed_ids, loop.finish_store.asked_tasks()
        closed = [
            task.task_id
            for task in loop.store.tasks()
            if task.is_open
            and task.task_id not in accepted
            and loop.pool.canonical(task.image_id) in removed
        ]
        loop.project.delete_tasks(closed)
        loop.store.forget_tasks(closed, time.time())
    annotated = set(map(loop.pool.canonical, loop.store.annotated_images()))
    loop.pool.keep_labeled(sorted(annotated & removed))
    return len(closed)


def _summary(pool: Pool, changes: Merged | None, n_decoded: int, n_closed: int) -> str:
    """Summarize a rescan in one line; return "" if nothing has changed."""
    parts = []
    if changes and changes.added:
        parts.append(f"{len(changes.added):,} new")
    if changes and changes.changed:
        parts.append(f"{len(changes.changed):,} changed")
    if changes and changes.removed:
        parts.append(f"{len(changes.removed):,} removed (of which {n_closed:,} had an open task)")
    if n_decoded:
        parts.append(f"{n_decoded:,} decoded")
    if parts and pool.n_waiting:
        parts.append(f"{pool.n_waiting:,} waiting to be decoded")
    return f"pool: {', '.join(parts)}" if parts else ""
