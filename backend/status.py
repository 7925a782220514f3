"""Status: what is known already about a project, as one JSON-ready dict and as one sentence.

Read from the model folder and Redis; Label Studio is never asked. docs/status.md explains it all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from backend import pool_scores, registry
from backend.errors import ModelFolderError
from backend.evaluation import Evaluation
from backend.forecast import Forecast, Point, TrackRecord, forecast, track_record
from backend.interval import interval_of
from backend.labelstudio import label_now_url
from backend.services import find_services
from backend.settings import Settings
from backend.training_queue import TrainingQueue
from backend.version_meta import Meta

MORE_LABELS = 100
NO_MODEL = "no model yet"
OUTLOOK_POINTS = 30  # older ones tell little, and their record would take seconds
NEXT_IMAGES = 12
CLOCK_SKEW_S = 2.0  # between whoever ordered the open images and whoever hears of answers


def whole_status(settings: Settings, queue: TrainingQueue) -> dict[str, Any]:
    """All that GET /status answers: the services, and every project that set-up has recorded."""
    projects, unreadable = [], {}
    for project_id in registry.known_projects(settings.model_dir):
        try:
            projects.append(project_status(settings, queue, project_id))
        except ModelFolderError as error:  # a damaged file of one is not the others' problem
            unreadable[str(project_id)] = str(error)
    return {
        "services": [asdict(service) for service in find_services(queue, time.time())],
        "projects": projects,
        "unreadable": unreadable,
    }


def project_status(settings: Settings, queue: TrainingQueue, project_id: int) -> dict[str, Any]:
    """Project, round, versions, labels, queue, running jobs, what comes next, last errors."""
    root = registry.project_root(settings.model_dir, project_id)
    record = registry.read_record(root)
    current = registry.current(root)
    sound, broken = registry.versions(root)
    generation = queue.generation(project_id)
    facts = queue.facts(project_id)
    rounds_done = registry.last_round(root)
    n_open = facts.get("open")
    is_last_round = bool(settings.rounds) and rounds_done > settings.rounds
    is_all_answered = n_open == 0 and generation.n_new == 0
    return {
        "project_id": project_id,
        "title": record.title if record else None,
        "label_url": label_now_url(settings.people_url, project_id),
        "notices": [n for n in (record.pool_notice, record.weights_notice) if n] if record else [],
        "pool": record.pool if record else None,
        "weights": record.weights if record else None,
        "train": settings.train,
        "strategy": settings.strategy,
        "round": rounds_done,
        "rounds": settings.rounds,
        "is_finished": is_all_answered and (is_last_round or bool(facts.get("is_exhausted"))),
        "version": current.version if current else None,
        "validation": asdict(current.validation) if current else None,
        "test": asdict(current.test) if current and current.test else None,
        "trained_on_labels": current.labels if current else 0,
        "labels_per_class": current.labels_per_class if current else {},
        "confusion": _confusion(root, current),
        "outlook": outlook(sound),
        "versions": len(sound),
        "learning_curve": [_curve_point(meta, current) for meta in sound],
        "training_seconds": next(
            (meta.seconds for meta in reversed(sound) if not meta.is_head), {}
        ),
        "refused": {meta.version: meta.refused for meta in sound if meta.refused},
        "broken_versions": broken,
        "annotations": facts.get("annotations"),
        "skipped": facts.get("skipped"),
        "open_tasks": n_open,
        "asked_again": facts.get("again"),
        "next_images": [
            image.model_dump(exclude={"picture"})
            for image in next_images(settings, queue, project_id)[:NEXT_IMAGES]
        ],
        "new_annotations": generation.n_new,
        "retrain_after": settings.retrain_after,
        "waiting_for": facts.get("waiting_for"),
        "left_out": sound[-1].left_out if sound else {},
        "annotators": registry.read_annotators(root),
        "jobs": queue.jobs(project_id),
        "workers": queue.worker_counts(),
        "errors": queue.errors(project_id),
    }


def next_images(
    settings: Settings, queue: TrainingQueue, project_id: int
) -> list[registry.OpenImage]:
    """Open images in the order of asking, as last ordered, less those answered since; with BLIND
    without the model's guesses.
    """
    kept = registry.read_open_images(registry.project_root(settings.model_dir, project_id))
    if kept is None:
        return []
    answered = queue.answered_since(project_id, kept.read_at.timestamp() - CLOCK_SKEW_S)
    hidden: dict[str, Any] = {"guesses": ()} if settings.blind else {}
    return [
        image.model_copy(update=hidden) for image in kept.images if image.image_id not in answered
    ]


def _curve_point(meta: Meta, current: Meta | None) -> dict[str, Any]:
    low, high = interval_of(meta.validation.accuracy, meta.validation.images)
    return {
        "version": meta.version,
        "made_at": meta.created_at,
        "labels": meta.labels,
        "accuracy": meta.validation.accuracy,
        "low": low,
        "high": high,
        "test_accuracy": meta.test.accuracy if meta.test else None,
        "is_head": meta.is_head,
        "is_current": current is not None and meta.version == current.version,
        "refused": meta.refused,
    }


def _confusion(root: Path, current: Meta | None) -> dict[str, Any] | None:
    """How the version in service takes one class for another on the validation split."""
    if current is None:
        return None
    return _confusion_of(root, current.version, current.classes)


@lru_cache(maxsize=32)
def _confusion_of(root: Path, version: str, classes: tuple[str, ...]) -> dict[str, Any] | None:
    kept = pool_scores.load_validation(root, version)
    if kept is None or not len(kept[0]):
        return None
    truth, probs = kept
    n_classes = len(classes)
    cells = n_classes * truth + probs.argmax(axis=1)
    counts = np.bincount(cells, minlength=n_classes**2).reshape(n_classes, -1)
    return {"classes": list(classes), "counts": counts.tolist()}


def outlook(sound: Sequence[Meta]) -> dict[str, Any] | None:
    """What MORE_LABELS more labels should gain, by the learning curve so far, and how such
    forecasts did; None with fewer than three full versions. Accuracies are on the validation split.
    """
    curve = tuple(
        Point(meta.labels, meta.validation.accuracy, meta.validation.images)
        for meta in sound
        if not meta.is_head
        and meta.refused is None
        and meta.validation.images == sound[-1].validation.images
    )[-OUTLOOK_POINTS:]
    found, past = _forecasts(curve)
    return None if found is None else {**asdict(found), "past": asdict(past)}


@lru_cache(maxsize=32)
def _forecasts(curve: tuple[Point, ...]) -> tuple[Forecast | None, TrackRecord]:
    """Tens of milliseconds, which a backend that is asked every few seconds has better uses for."""
    return forecast(curve, MORE_LABELS), track_record(curve)


def outlook_sentence(outlook: Mapping[str, Any]) -> str:
    """The outlook as people read it."""
    gain, low, high = (100 * outlook[name] for name in ("gain", "low", "high"))
    past = outlook["past"]
    record = (
        f"; {past['inside']} of {past['forecasts']} earlier forecasts held, off by "
        f"{100 * past['mean_error']:.1f} on average"
        if past["forecasts"]
        else ""
    )
    more = outlook["more_labels"]
    return f"{more} more labels: {gain:+.1f} points ({low:.1f} to {high:.1f}){record}"


def sentence(status: dict[str, Any]) -> str:
    """Where the project is, in one sentence."""
    version, labels = status["version"], status["trained_on_labels"]
    model = in_service(version, Evaluation(**status["validation"]), labels) if version else NO_MODEL
    return f"{status['title']}, round {status['round']}: {model}; {_activity(status)}."


def in_service(version: str, validation: Evaluation, labels: int) -> str:
    """Say which version serves, and what it is worth."""
    return (
        f"{version} in service, {validation.accuracy:.1%} right on "
        f"{validation.images:,} validation images, trained on {labels:,} labels"
    )


def _activity(status: dict[str, Any]) -> str:
    if status["is_finished"]:
        n_again = status["asked_again"]
        return f"finished; {n_again} images wait for a second opinion" if n_again else "finished"
    training = [job for job in status["jobs"] if job["job"] == "retrain"]
    if training and not status["workers"]["train"]:
        return "a training waits, and no trainer is there: it is starting, or its log says why"
    if training:
        job = training[0]
        if job["status"] == "failed":
            return (
                "the training's process died: see the trainer's log; it is tried again in minutes"
            )
        if job["status"] != "started" or "phase" not in job:
            return "a training waits for its turn"
        share = f" {job['done'] / job['total']:.0%}" if job["total"] else ""
        left = f", about {job['seconds_left']:.0f} s left" if job["seconds_left"] else ""
        return f"{job['phase']}{share}{left}"
    if status["waiting_for"]:
        return str(status["waiting_for"])
    n_open = "?" if status["open_tasks"] is None else status["open_tasks"]
    return (
        f"{n_open} open tasks, {status['new_annotations']} of "
        f"{status['retrain_after']} new annotations until the next training"
    )
