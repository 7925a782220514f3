"""Measure all versions again after annotators have changed validation labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from backend.base.arrays import Labels
from backend.base.classes import fold
from backend.base.errors import BrokenVersionError, NoModelError
from backend.base.progress import Progress
from backend.images.pool import Pool
from backend.measures.evaluation import evaluate
from backend.people.validation_labels import ValidationProgress
from backend.rounds.accuracy import describe_project
from backend.rounds.loop import Loop, push_lock
from backend.rounds.scoring import score_sample
from backend.rounds.validation_reading import read_validation
from backend.store import model_outputs
from backend.store.files import lock
from backend.store.version_meta import Meta

log = logging.getLogger(__name__)


def measure_again(loop: Loop, progress: Progress = lambda *_: None) -> None:
    """Measure all versions on this loop's validation labels, and update the project's description.

    The learning curve, the forecast and the status then compare all versions on the same images.
    If the validation labels were known from the start, they never change, and nothing is done.
    Raises DetachedError if the project has been detached since the loop was opened.
    """
    if not loop.pool.sample.image_ids:
        return
    has_changed = False
    for meta in loop.registry.versions()[0]:
        try:
            has_changed |= _measure(loop, meta, progress)
        except (BrokenVersionError, NoModelError) as error:  # for example, just pruned
            log.warning("%s was not measured again: %s", meta.version, error)
    if has_changed:
        text = describe_project(loop.registry.current(), read_progress(loop))
        with push_lock(loop):
            loop.project.set_description(text)


def read_progress(loop: Loop) -> ValidationProgress | None:
    """Return the progress in labeling validation images, or None if their labels are known."""
    if not loop.validation_labels:
        return None
    return read_validation(
        loop.store, loop.classes, loop.validation_labels, may_reopen=loop.may_reopen
    ).progress


def sample_labels(pool: Pool, image_ids: Sequence[str]) -> Labels:
    """Return each image's validation label, or UNLABELED if no label is decided yet."""
    validation = pool.validation
    label_of: Mapping[str, int] = dict(
        zip(validation.image_ids, validation.labels.tolist(), strict=True)
    )
    found = [label_of.get(image_id, model_outputs.UNLABELED) for image_id in image_ids]
    return np.array(found, dtype=np.int64)


def _measure(loop: Loop, meta: Meta, progress: Progress) -> bool:
    """Measure one version unless it was measured on exactly these labels."""
    columns = [*map(fold, loop.pool.classes)]
    if [*map(fold, meta.classes)] != columns[: len(meta.classes)]:
        return False  # its columns are in another order
    sample = model_outputs.load_sample_probs(loop.root, meta.version)
    known = set(sample.image_ids) if sample else set()
    # Since this version was made, images may have joined the sample, or it may have been drawn.
    if meta.pruned_at is None and not known.issuperset(loop.pool.validation.image_ids):
        sample = score_sample(loop, meta, progress)
    if sample is None:
        return False
    labels = sample_labels(loop.pool, sample.image_ids)
    if np.array_equal(labels, sample.labels):
        return False
    now = replace(sample, labels=labels)
    probs = loop.classes.align(now.probs[now.is_labeled])
    validation = evaluate(probs, labels[now.is_labeled]) if len(probs) else None
    with lock(loop.root, "promote"):
        # In this order, so that a version is measured again if the process dies in between.
        loop.registry.record_validation(meta.version, validation)
        model_outputs.save_sample_probs(loop.root, meta.version, now)
    return True
