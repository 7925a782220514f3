"""The loop, told top to bottom: train a round, put it in service, ask what it is least sure of."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from pathlib import Path

from backend.base.errors import TooFewLabelsError
from backend.base.progress import Progress
from backend.rounds.batches import top_up
from backend.rounds.labels import annotator_figures, read_labels
from backend.rounds.learning_curve import outlook, outlook_sentence
from backend.rounds.loop import Loop
from backend.rounds.observe import read_everything_changed
from backend.rounds.ordering import refresh_predictions
from backend.rounds.versions import fit_head_version, train_version
from backend.store.locks import lock
from backend.store.registry import Registry
from backend.store.version_meta import Meta

log = logging.getLogger(__name__)


def train_round(loop: Loop, *, is_forced: bool, progress: Progress) -> Meta | None:
    """Train one round: read, train, measure, keep, promote, re-order the open tasks, ask more.

    Returns the new version's metadata, or None if there is none: the labels are those of the last
    version and nobody asked for a training. With TRAIN=head only the first version is a full one.
    Raises TooFewLabelsError while there is nothing to train on.
    """
    current = loop.registry.current()
    body = current.body if current is not None and loop.train == "head" else None
    meta = None
    with lock(loop.root, "head") if body else nullcontext():
        progress("reading annotations", 0, 0)
        began = time.time()
        read_everything_changed(loop.project, loop.store)
        revision = loop.store.facts().revision  # before the answers, which may be newer
        annotations = loop.store.annotations()
        reading = read_labels(loop, annotations, progress)
        people = loop.project.annotator_names()
        loop.store.record_annotators(annotator_figures(annotations, reading, loop.names, people))
        error = None
        if is_forced or not _is_learned(loop.root, reading.labels.fingerprint, body):
            make = fit_head_version if body else train_version
            try:
                meta = make(loop, reading.labels, loop.names, progress)
            except TooFewLabelsError as too_few:
                error = too_few
    loop.store.record_learned(
        {a.annotation_id: a.digest for of_task in annotations.values() for a in of_task},
        time.time(),
        trained_at=began,
        head_revision=revision,  # a new body knows no more, whatever heads of the last one knew
        waiting_for=None if error is None else str(error),
    )
    if error is not None:
        raise error
    if meta is not None and (ahead := outlook(loop.registry.versions()[0])) is not None:
        log.info("%s", outlook_sentence(ahead))
    progress("re-ordering open tasks", 0, 0)
    refresh_predictions(loop, progress)
    top_up(loop, is_new_version=meta is not None, progress=progress)
    return meta


def refit_head(loop: Loop, progress: Progress = lambda *_: None) -> Meta | None:
    """Fit a new head to all answers as last read, between two rounds, and re-order the open tasks.

    Returns None before the first version, if no label is new, and if a training was faster.
    Raises TooFewLabelsError as a training does.
    """
    current = loop.registry.current()
    if current is None:
        return None
    meta, error = None, None
    with lock(loop.root, "head"):
        revision = loop.store.facts().revision
        labels = read_labels(loop, loop.store.annotations()).labels
        if not _is_learned(loop.root, labels.fingerprint, current.body):
            try:
                meta = fit_head_version(loop, labels, loop.names, progress)
            except TooFewLabelsError as too_few:
                error = too_few
    loop.store.record_success("refit", head_revision=revision, head_fitted_at=time.time())
    if error is not None:
        raise error
    if meta is not None:
        refresh_predictions(loop, progress)
    return meta


def _is_learned(root: Path, fingerprint: str, body: str | None) -> bool:
    """Whether the last full version, or the last one on `body`, was made of these very labels."""
    sound, _ = Registry(root).versions()
    made = [meta for meta in sound if (meta.body == body if body else not meta.is_head)]
    return bool(made) and made[-1].labels_fingerprint == fingerprint
