"""Run the loop: learn from annotations, reorder the open tasks, query the next images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext

from backend.base.errors import TooFewLabelsError
from backend.base.progress import Progress
from backend.rounds.accuracy import outlook, outlook_sentence
from backend.rounds.annotation_use import LEARNED, OVERRULED, UNAVAILABLE, without
from backend.rounds.annotators import annotator_figures
from backend.rounds.batches import top_up
from backend.rounds.classes import current_labels
from backend.rounds.cluster import cluster_of
from backend.rounds.foreign_tasks import adopt_tasks
from backend.rounds.labels import LabelReading, read_labels
from backend.rounds.loop import LabeledImages, Loop
from backend.rounds.measuring import measure_again
from backend.rounds.observe import read_everything_changed
from backend.rounds.ordering import refresh_predictions
from backend.rounds.promotion import keep
from backend.rounds.training import train_candidate, train_head
from backend.rounds.validation import read_sample, with_validation
from backend.store.annotation_outcomes import AnnotationOutcomes
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED
from backend.store.files import lock
from backend.store.version_meta import Meta

log = logging.getLogger(__name__)


def train_round(loop: Loop, *, is_forced: bool, progress: Progress) -> Meta | None:
    """Train a version on all annotations, then reorder the open tasks and query the next batch.

    Returns None if neither the labels nor the start have changed since the last version and
    `is_forced` is not set. With TRAIN=head, only the first version and the first version with a new
    start are full; other versions are heads. Raises TooFewLabelsError if training is not possible
    yet.
    """
    current = loop.registry.current()
    # The newest full version may have been refused or rolled back: that makes no other one due.
    full = [meta for meta in loop.registry.versions()[0] if not meta.is_head]
    is_start_new = _has_new_start(loop, full[-1] if full else None)
    may_keep_body = loop.settings.train == "head" and not is_start_new
    body = current.body if current is not None and may_keep_body else None
    with lock(loop.root, "head") if body else nullcontext():
        meta = _learn(loop, body, is_forced=is_forced, progress=progress)
    if meta is not None and (ahead := outlook(loop.registry.versions()[0])) is not None:
        log.info("%s", outlook_sentence(ahead))
    progress("re-ordering open tasks", 0, 0)
    refresh_predictions(loop, progress)
    top_up(loop, is_new_version=meta is not None, progress=progress)
    return meta


def _has_new_start(loop: Loop, version: Meta | None) -> bool:
    """Return whether the next training run would start from another body than a version's did."""
    before = version.start or PRETRAINED if version else PRETRAINED
    return before != Bodies(loop.root).usable_start().name


def refit_head(loop: Loop, progress: Progress = lambda *_: None) -> Meta | None:
    """Fit a head to all annotations read so far, and reorder the open tasks by its predictions.

    Returns None if no version exists yet, if no label is new, or if a full version was promoted
    during the fit. Raises TooFewLabelsError if a fit is not possible yet.
    """
    current = loop.registry.current()
    if current is None:
        return None
    with lock(loop.root, "head"):
        revision = loop.store.facts().revision
        reading = read_labels(loop, loop.store.annotations())

        def record(waiting_for: str | None) -> None:
            now = time.time()
            loop.store.record_success("refit", head_revision=revision, head_fitted_at=now)
            # The next training run decodes images that a head cannot use yet.
            missing = (UNAVAILABLE,) if loop.is_attached else ()
            _record_outcomes(loop, reading, waiting_for, *missing)

        meta = _make_version(loop, reading.labels, current.body, record, progress)
    if meta is not None:
        refresh_predictions(loop, progress)
    return meta


def _learn(loop: Loop, body: str | None, *, is_forced: bool, progress: Progress) -> Meta | None:
    """Read all annotations, and train on them unless the last version used the same labels."""
    progress("reading annotations", 0, 0)
    began = time.time()
    read_everything_changed(loop.project, loop.store)
    adopt_tasks(loop.pool, loop.store)
    revision = loop.store.facts().revision  # read first, so the annotations may be newer
    annotations = loop.store.annotations()
    reading = read_labels(loop, annotations, progress)
    loop.pool.keep_labeled(reading.labels.image_ids)
    if loop.validation_labels:
        loop = with_validation(loop)
        loop.pool.keep_labeled(loop.pool.validation.image_ids)
    names, sample = loop.project.annotator_names(), read_sample(loop)
    labels = current_labels(annotations, loop.classes)
    figures = annotator_figures(labels, reading, loop.names, names, sample)
    loop.store.record_annotators(figures)
    foreign = loop.store.foreign_tasks()
    digests = {
        a.annotation_id: a.digest
        for task_id, of_task in annotations.items()
        for a in of_task
        if task_id not in foreign
    }

    def record(waiting_for: str | None) -> None:
        now = time.time()
        first_at = loop.store.facts().first_version_at or (0.0 if waiting_for else now)
        loop.store.record_learned(
            digests,
            now,
            trained_at=began,
            training_ended_at=now,
            first_version_at=first_at,
            head_revision=revision,  # an earlier body's head may have used more labels
            waiting_for=waiting_for,
        )
        _record_outcomes(loop, reading, waiting_for)

    return _make_version(loop, reading.labels, body, record, progress, is_forced=is_forced)


def _record_outcomes(
    loop: Loop, reading: LabelReading, waiting_for: str | None, *left_out: str
) -> None:
    """Record what became of each annotation; if training has to wait, no annotation is learned."""
    not_learned = () if waiting_for is None else (LEARNED, OVERRULED)
    AnnotationOutcomes(loop.root).record(without(reading.outcomes, *not_learned, *left_out))


def _make_version(
    loop: Loop,
    labels: LabeledImages,
    body: str | None,
    record: Callable[[str | None], None],
    progress: Progress,
    *,
    is_forced: bool = False,
) -> Meta | None:
    """Train a full version, or a head on `body`.

    Afterwards, call `record` with None, or with the reason why training is not possible yet.

    Returns None without training if the last full version, or the last version on `body`, was
    trained on exactly these labels, from the same start.
    """
    meta, candidate, sound = None, None, loop.registry.versions()[0]
    earlier = [m for m in sound if (m.body == body if body else not m.is_head)]
    has_learned = bool(earlier) and earlier[-1].labels_fingerprint == labels.fingerprint
    if has_learned and body is None:
        has_learned = not _has_new_start(loop, earlier[-1])
    is_due = is_forced or not has_learned
    try:
        with cluster_of(loop) if is_due and body is None else nullcontext():
            if is_due:
                make = train_head if body else train_candidate
                candidate = make(loop, labels, progress)
            loop = with_validation(loop)  # includes labels that were given during training
            measure_again(loop, progress)
            if candidate is not None:
                meta = keep(loop, labels, candidate)
    except TooFewLabelsError as error:
        record(str(error))
        raise
    record(None)
    return meta
