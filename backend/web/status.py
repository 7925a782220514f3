"""Say where every project is, from what is already known: model folder, database and Redis.

Label Studio is never asked. The fields are in status_model.py; docs/status.md explains them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from backend.base.errors import ModelFolderError
from backend.base.labeling import ProjectCounts
from backend.base.settings import Settings
from backend.labelstudio.client import label_now_url
from backend.queue.services import find_services
from backend.queue.training_queue import TrainingQueue
from backend.rounds.learning_curve import NO_MODEL, in_service, learning_curve, outlook
from backend.rounds.observe import count_new
from backend.store import pool_scores, pruning, registry
from backend.store.annotator_figures import AnnotatorFigures
from backend.store.open_image import OpenImage
from backend.store.project_store import Facts, ProjectStore
from backend.store.registry import ProjectRecord
from backend.store.version_meta import Meta
from backend.web.status_model import Confusion, JobStatus, LastError, ProjectStatus, Status

NEXT_IMAGES = 12
CLOCK_SKEW_S = 2.0  # between the process that ordered the open images and the one told of answers


@dataclass(frozen=True)
class _Known:
    """What is known of a project, as it was read."""

    record: ProjectRecord | None
    notices: Sequence[str]  # "" among them
    current: Meta | None
    sound: Sequence[Meta]  # oldest first
    broken: dict[str, str]
    rounds_done: int
    confusion: Confusion | None
    annotators: Sequence[AnnotatorFigures]
    next_images: Sequence[OpenImage]
    n_new: int  # changes of annotations that no training has read
    facts: Facts
    counts: ProjectCounts | None  # None before Label Studio was read
    jobs: Sequence[JobStatus]
    workers: dict[str, int]
    errors: Sequence[LastError]


def whole_status(settings: Settings, queue: TrainingQueue) -> Status:
    """All that GET /status answers: the services, and every project that set-up has recorded."""
    projects, unreadable = [], {}
    for project_id in registry.known_projects(settings.model_dir):
        try:
            projects.append(project_status(settings, queue, project_id))
        except ModelFolderError as error:  # one project's damaged file is not the others' problem
            unreadable[str(project_id)] = str(error)
    return Status(
        services=tuple(find_services(queue, time.time())),
        projects=tuple(projects),
        unreadable=unreadable,
    )


def project_status(settings: Settings, queue: TrainingQueue, project_id: int) -> ProjectStatus:
    """Project, round, versions, labels, queue, running jobs, what comes next, last errors."""
    return _tell(settings, project_id, _gather(settings, queue, project_id))


def next_images(settings: Settings, queue: TrainingQueue, project_id: int) -> list[OpenImage]:
    """Return the open images in the order of asking, without those answered since that was made.

    With BLIND the model's guesses are left out.
    """
    store = ProjectStore(registry.project_root(settings.model_dir, project_id))
    answered = queue.answered_since(project_id, store.facts().open_read_at - CLOCK_SKEW_S)
    hidden: dict[str, Any] = {"guesses": ()} if settings.blind else {}
    return [
        image.model_copy(update=hidden)
        for image in store.open_images()
        if image.image_id not in answered
    ]


def sentence(status: ProjectStatus) -> str:
    """Where the project is, in one sentence."""
    model = NO_MODEL
    if status.version is not None and status.validation is not None:
        model = in_service(status.version, status.validation, status.trained_on_labels)
    return f"{status.title}, round {status.round}: {model}; {_activity(status)}."


def _gather(settings: Settings, queue: TrainingQueue, project_id: int) -> _Known:
    """Read everything that a project's status is made from."""
    root = registry.project_root(settings.model_dir, project_id)
    store = ProjectStore(root)
    facts = store.facts()
    record = registry.read_record(root)
    current = registry.current(root)
    sound, broken = registry.versions(root)
    return _Known(
        record=record,
        notices=(
            record.pool_notice if record else "",
            record.weights_notice if record else "",
            pruning.notice(root, sound, settings.keep_versions),
        ),
        current=current,
        sound=sound,
        broken=broken,
        rounds_done=registry.last_round(root),
        confusion=_confusion(root, current.version, current.classes) if current else None,
        annotators=store.annotators(),
        next_images=next_images(settings, queue, project_id)[:NEXT_IMAGES],
        n_new=count_new(store, queue, project_id)[0],
        facts=facts,
        counts=store.counts() if facts.read_at else None,
        jobs=[JobStatus.model_validate(job) for job in queue.jobs(project_id)],
        workers=queue.worker_counts(),
        errors=[LastError.model_validate(error) for error in store.errors()],
    )


def _tell(settings: Settings, project_id: int, known: _Known) -> ProjectStatus:
    record, current, sound = known.record, known.current, known.sound
    counts = known.counts
    return ProjectStatus(
        project_id=project_id,
        title=record.title if record else None,
        label_url=label_now_url(settings.browser_url, project_id),
        notices=tuple(filter(None, known.notices)),
        pool=record.pool if record else None,
        weights=record.weights if record else None,
        train=settings.train,
        strategy=settings.strategy,
        round=known.rounds_done,
        rounds=settings.rounds,
        is_finished=_is_finished(settings.rounds, known),
        version=current.version if current else None,
        validation=current.validation if current else None,
        test=current.test if current else None,
        trained_on_labels=current.labels if current else 0,
        labels_per_class=current.labels_per_class if current else {},
        confusion=known.confusion,
        outlook=outlook(sound),
        versions=len(sound),
        learning_curve=learning_curve(sound, current.version if current else None),
        training_seconds=next((meta.seconds for meta in reversed(sound) if not meta.is_head), {}),
        refused={meta.version: meta.refused for meta in sound if meta.refused},
        broken_versions=known.broken,
        annotations=counts.annotations if counts else None,
        skipped=counts.skipped if counts else None,
        open_tasks=counts.open if counts else None,
        asked_again=counts.awaiting_second_opinion if counts else None,
        next_images=tuple(known.next_images),
        new_annotations=known.n_new,
        retrain_after=settings.retrain_after,
        waiting_for=known.facts.waiting_for,
        left_out=sound[-1].left_out if sound else {},
        annotators=tuple(known.annotators),
        jobs=tuple(known.jobs),
        workers=known.workers,
        errors=tuple(known.errors),
    )


def _is_finished(rounds: int, known: _Known) -> bool:
    is_all_answered = known.counts is not None and not known.counts.open and not known.n_new
    is_last_round = bool(rounds) and known.rounds_done > rounds
    return is_all_answered and (is_last_round or bool(known.facts.exhausted_at))


@lru_cache(maxsize=32)
def _confusion(root: Path, version: str, classes: tuple[str, ...]) -> Confusion | None:
    """Count which class a version takes for which on the validation split."""
    kept = pool_scores.load_validation(root, version)
    if kept is None or not len(kept[0]):
        return None
    truth, probs = kept
    n_classes = len(classes)
    cells = n_classes * truth + probs.argmax(axis=1)
    counts = np.bincount(cells, minlength=n_classes**2).reshape(n_classes, -1)
    return Confusion(classes=classes, counts=counts.tolist())


def _activity(status: ProjectStatus) -> str:
    if status.is_finished:
        n_again = status.asked_again
        return f"finished; {n_again} images wait for a second opinion" if n_again else "finished"
    training = next((job for job in status.jobs if job.job == "retrain"), None)
    if training is not None and not status.workers["train"]:
        return "a training waits, and no trainer is there: it is starting, or its log says why"
    if training is not None:
        return _training(training)
    if status.waiting_for:
        return status.waiting_for
    n_open = "?" if status.open_tasks is None else status.open_tasks
    return (
        f"{n_open} open tasks, {status.new_annotations} of "
        f"{status.retrain_after} new annotations until the next training"
    )


def _training(job: JobStatus) -> str:
    if job.status == "failed":
        return "the training's process died: see the trainer's log; it is tried again in minutes"
    if job.status != "started" or job.phase is None:
        return "a training waits for its turn"
    share = f" {job.done / job.total:.0%}" if job.done is not None and job.total else ""
    left = f", about {job.seconds_left:.0f} s left" if job.seconds_left else ""
    return f"{job.phase}{share}{left}"
