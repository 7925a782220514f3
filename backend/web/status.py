"""Report the state of every project from the model folder, the database and Redis.

Label Studio is never queried. status_model.py defines the fields; docs/status.md explains them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from backend.base.arrays import Labels, Probs
from backend.base.classes import REMOVED, ClassList, fold
from backend.base.errors import ModelFolderError
from backend.base.progress import describe_time
from backend.base.settings import Settings
from backend.labelstudio.client import label_now_url
from backend.queue.services import find_services
from backend.queue.training_queue import TrainingQueue
from backend.rounds.accuracy import (
    NO_MODEL,
    describe_version,
    enough_labels,
    learning_curve,
    outlook,
)
from backend.rounds.adaptation_progress import adaptation_progress
from backend.rounds.annotation_use import LEARNED, count_outcomes
from backend.rounds.classes import left_out_notices, pool_class_notice
from backend.rounds.finish_progress import finish_progress
from backend.rounds.foreign_tasks import foreign_notice
from backend.rounds.listing_problem import listing_notices
from backend.rounds.observe import count_new
from backend.rounds.validation_reading import project_progress
from backend.store import model_outputs, pruning
from backend.store.finish_store import FinishStore
from backend.store.project_record import ProjectRecord, known_projects, project_root, read_record
from backend.store.project_rows import Facts, OpenImage
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.version_meta import Meta
from backend.web.status_model import Confusion, JobStatus, ProjectStatus, Status

NEXT_IMAGES = 12
# The clock of the process that orders open images may differ this much from the web server's.
CLOCK_SKEW_S = 2.0
STARTED_FIRST = (
    "This project asks for {n} annotations per task, so Label Studio first serves the tasks that "
    "already have an annotation, in random order, and only then the images that the model asks for."
)

Fields = dict[str, Any]  # fields of ProjectStatus, which checks their types


def whole_status(settings: Settings, queue: TrainingQueue) -> Status:
    """Return the response of GET /status: the services and every project that is set up."""
    projects, unreadable = [], {}
    for project_id in known_projects(settings.model_dir):
        try:
            projects.append(project_status(settings, queue, project_id))
        except ModelFolderError as error:  # damage to one project must not hide the others
            unreadable[str(project_id)] = str(error)
    return Status(
        services=tuple(find_services(queue, time.time())),
        projects=tuple(projects),
        unreadable=unreadable,
    )


def project_status(settings: Settings, queue: TrainingQueue, project_id: int) -> ProjectStatus:
    """Return the status of one project. Raises ModelFolderError if one of its files is damaged."""
    root = project_root(settings.model_dir, project_id)
    registry = Registry(root)
    sound, broken = registry.versions()
    store = ProjectStore(root)
    facts = store.facts()
    versions = _version_fields(registry, sound)
    labeling = _labeling_fields(root, facts, queue, project_id)
    is_last_round = bool(settings.rounds) and versions["round"] > settings.rounds
    is_all_labeled = labeling["open_tasks"] == 0 and not labeling["new_annotations"]
    finish = finish_progress(settings, root)
    is_asking = finish is not None and finish.state == "asking"
    jobs = queue.jobs(project_id)
    adapting = next((j for j in jobs if j["job"] == "adapt" and j["status"] == "started"), None)
    is_exhausted = bool(facts.exhausted_at) and not facts.undecoded_images and not is_asking
    return ProjectStatus(
        **_setup_fields(settings, root, project_id, facts, sound),
        **_pool_fields(root, facts),
        **versions,
        **_validation_fields(settings, registry),
        broken_versions=broken,
        **labeling,
        finish=finish,
        finish_wanted=facts.finish_wanted,
        finish_outlook=facts.finish_outlook,
        is_finished=is_all_labeled and (is_last_round or is_exhausted),
        waiting_for=facts.waiting_for,
        next_images=()
        if facts.gone
        else tuple(next_images(settings, queue, project_id)[:NEXT_IMAGES]),
        adaptation=adaptation_progress(settings, root, adapting, time.time()),
        jobs=tuple(JobStatus.model_validate(job) for job in jobs),
        workers=queue.worker_counts(),
    )


def next_images(settings: Settings, queue: TrainingQueue, project_id: int) -> list[OpenImage]:
    """Return the open images in order, without images annotated since they were ordered.

    With BLIND, the model's guesses are omitted.
    """
    store = ProjectStore(project_root(settings.model_dir, project_id))
    answered = queue.annotated_since(project_id, store.facts().open_read_at - CLOCK_SKEW_S)
    hidden: dict[str, Any] = {"guesses": ()} if settings.blind else {}
    return [
        image.model_copy(update=hidden)
        for image in store.open_images()
        if image.image_id not in answered
    ]


def sentence(status: ProjectStatus) -> str:
    """Return the project's state as one sentence."""
    model = NO_MODEL
    if status.version is not None:
        model = describe_version(
            status.version, status.validation, status.trained_on_labels, status.validation_labels
        )
    return f"{status.title}, round {status.round}: {model}; {_activity(status)}."


def _setup_fields(
    settings: Settings, root: Path, project_id: int, facts: Facts, sound: Sequence[Meta]
) -> Fields:
    record = read_record(root)
    is_attached = record is not None and record.is_attached
    notices = [facts.order_problem, facts.label_config_problem, facts.connection_problem]
    notices += listing_notices(ProjectStore(root), project_id)
    if facts.annotations_per_task > 1:
        notices.append(STARTED_FIRST.format(n=facts.annotations_per_task))
    if record is not None:
        notices += [record.pool_notice, record.weights_notice]
        notices += left_out_notices(record, ProjectStore(root).label_counts())
        notices.append(pool_class_notice(record, facts.pool_classes))
    if not is_attached:
        notices.append(foreign_notice(ProjectStore(root), settings.batch_size))
    notices.append(pruning.notice(root, sound, settings.keep_versions))
    return {
        "project_id": project_id,
        "title": record.title if record else None,
        "label_url": label_now_url(settings.browser_url, project_id),
        "notices": (facts.gone,) if facts.gone else tuple(filter(None, notices)),
        "is_gone": bool(facts.gone),
        "is_attached": is_attached,
        "order_problem": facts.order_problem or None,
        "weights": record.weights if record else None,
        "train": settings.train,
        "strategy": settings.strategy_in(
            record.strategy if record else None,
            is_finishing=FinishStore(root).current() is not None,
        ),
        "goal": settings.goal,
        "rounds": settings.rounds,
        "retrain_after": settings.retrain_after,
    }


def _pool_fields(root: Path, facts: Facts) -> Fields:
    record = read_record(root)
    rescanned_at = datetime.fromtimestamp(facts.rescanned_at, UTC)
    return {
        "pool": record.pool if record else None,
        "may_pool_change": record is not None and record.may_pool_change,
        "pool_images": facts.pool_images or None,
        "undecoded_images": facts.undecoded_images,
        "rescanned_at": rescanned_at.isoformat(timespec="seconds") if facts.rescanned_at else None,
    }


def _version_fields(registry: Registry, sound: Sequence[Meta]) -> Fields:
    """Return the fields about versions; `sound` lists the intact versions, oldest first."""
    current = registry.current()
    return {
        "round": registry.last_round(),
        "version": current.version if current else None,
        "validation": current.validation if current else None,
        "test": current.test if current else None,
        "trained_on_labels": current.labels if current else 0,
        "labels_per_class": current.labels_per_class if current else {},
        "confusion": _confusion(registry.root, current) if current else None,
        "outlook": outlook(sound),
        "versions": len(sound),
        "learning_curve": learning_curve(sound, current.version if current else None),
        "training_seconds": next((m.seconds for m in reversed(sound) if not m.is_head), {}),
        "refused": {meta.version: meta.refused for meta in sound if meta.refused},
        "left_out": sound[-1].left_out if sound else {},
    }


def _validation_fields(settings: Settings, registry: Registry) -> Fields:
    current, progress = registry.current(), project_progress(settings, registry.root)
    is_early = progress is not None and progress.labeled < enough_labels(progress.wanted)
    return {
        "validation_by": "people" if progress else "known",
        "validation_labels": progress,
        "cross_validation": current.cross_validation if current and is_early else None,
    }


def _labeling_fields(root: Path, facts: Facts, queue: TrainingQueue, project_id: int) -> Fields:
    store = ProjectStore(root)
    counts = store.counts() if facts.read_at else None  # None until the first reading
    unlearned = count_outcomes(root) if counts else {}
    learned = unlearned.pop(LEARNED, 0) if unlearned else None
    return {
        "annotations": counts.annotations if counts else None,
        "skipped": counts.skipped if counts else None,
        "open_tasks": counts.open if counts else None,
        "asked_again": counts.awaiting_second_opinion if counts else None,
        "learned_annotations": learned,
        "unlearned_annotations": unlearned,
        "new_annotations": count_new(store, queue, project_id)[0],
        "annotators": tuple(store.annotators()),
        "errors": tuple(store.errors()),
    }


def _confusion(root: Path, meta: Meta) -> Confusion | None:
    """Count how a version classifies the validation images; None without saved predictions.

    Renamed classes count under their new names, and removed classes are left out.
    """
    classes = _classes(read_record(root), meta)
    if (sample := model_outputs.load_sample_probs(root, meta.version)) is None:
        return _known_confusion(root, meta.version, classes)
    is_labeled = sample.is_labeled
    return _count_confusion(sample.labels[is_labeled], sample.probs[is_labeled], classes)


def _classes(record: ProjectRecord | None, meta: Meta) -> ClassList:
    """Return the project's classes, as far as possible in the spelling that a version recorded."""
    if record is None:
        return ClassList(meta.classes, meta.classes)
    removed = {*map(fold, record.removed_classes)}
    spelled = (*meta.classes, *record.classes[len(meta.classes) :])
    return record.offering(name for name in spelled if fold(name) not in removed)


@lru_cache(maxsize=32)
def _known_confusion(root: Path, version: str, classes: ClassList) -> Confusion | None:
    """Count like `_confusion`, once per version, because known labels never change."""
    kept = model_outputs.load_validation(root, version)
    return None if kept is None else _count_confusion(*kept, classes)


def _count_confusion(truth: Labels, probs: Probs, classes: ClassList) -> Confusion | None:
    n_columns = len(classes.columns)
    is_current = np.isin(truth, np.flatnonzero(classes.targets != REMOVED))
    if not is_current.any():
        return None
    guesses = classes.align(probs[is_current]).argmax(axis=1)
    cells = n_columns * classes.targets[truth[is_current]] + guesses
    counts = np.bincount(cells, minlength=n_columns**2).reshape(n_columns, -1)
    current = [row for row, name in enumerate(classes.names) if name in classes.current]
    return Confusion(classes=classes.current, counts=counts[np.ix_(current, current)].tolist())


def _activity(status: ProjectStatus) -> str:
    if status.is_gone:
        return "the project is gone from Label Studio"
    if status.is_finished:
        n_again = status.asked_again
        return f"finished; {n_again} images await a second opinion" if n_again else "finished"
    training = next((job for job in status.jobs if job.job == "retrain"), None)
    if training is not None and not status.workers["train"]:
        return (
            "training is queued but no trainer is running; if this persists, check the trainer log"
        )
    if training is not None:
        return _training(training)
    if status.waiting_for:
        return status.waiting_for
    n_open = "?" if status.open_tasks is None else status.open_tasks
    kind = "queried" if status.is_attached else "open"  # its team has other open tasks
    if status.adaptation.state == "running":
        adapting = next(job for job in status.jobs if job.job == "adapt")
        return f"{n_open} {kind} tasks; {_progress(adapting)}"
    return (
        f"{n_open} {kind} tasks, {status.new_annotations} of "
        f"{status.retrain_after} new annotations until the next training run"
    )


def _training(job: JobStatus) -> str:
    if job.status == "failed":
        return "the training process died and will be retried in a few minutes: see the trainer log"
    if job.status != "started" or job.phase is None:
        return "training is queued"
    return _progress(job)


def _progress(job: JobStatus) -> str:
    """Return the phase of a running job, how much of it is done, and the time left."""
    if job.phase is None:
        return "adapting the body"
    share = f" {job.done / job.total:.0%}" if job.done is not None and job.total else ""
    left = f", about {describe_time(job.seconds_left)} left" if job.seconds_left else ""
    return f"{job.phase}{share}{left}"
