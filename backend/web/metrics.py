"""Export the state of all projects and this process's counters to Prometheus.

Each scrape reads the projects from the model folder and Redis, never from Label Studio. Unknown
values are omitted.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from backend.base.errors import ModelFolderError, QueueError
from backend.base.settings import Settings
from backend.measures.interval import interval_of
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import RankStep, TrainStep
from backend.store.project_record import known_projects
from backend.web.status import project_status
from backend.web.status_model import ProjectStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Our target is 20 ms; Label Studio gives up after a second.
WEBHOOK_BUCKETS_S = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0,
)  # fmt: skip
SERVICES = ("redis", "model_folder")
JOB_NAMES = (*get_args(TrainStep), "rank", *get_args(RankStep))
# For each metric: its description and its labels.
GAUGES = {
    "up": (
        "1 if the service could be read just now, otherwise 0. If it is 0, projects are missing "
        "here, and GET /status reports the reason.",
        ("service",),
    ),
    "workers": ("RQ workers that listen to a queue, for all projects.", ("queue",)),
    "round": (
        "Number of the newest round; each round trains the whole network once.",
        ("project",),
    ),
    "trained_labels": ("Labels that the version in service was trained on.", ("project",)),
    "accuracy_ratio": (
        "Share of held-out images that the version in service classifies correctly, 0 to 1.",
        ("project", "split"),
    ),
    "accuracy_bound_ratio": (
        "Lower and upper bound of accuracy_ratio's 95 % interval, 0 to 1; few images give a wide "
        "interval.",
        ("project", "split", "bound"),
    ),
    "validation_labels": (
        "Validation images that annotators label, by state: labeled, undecided or pending.",
        ("project", "state"),
    ),
    "validation_labels_wanted": (
        "Validation images that annotators are asked to label (VALIDATION_LABELS).",
        ("project",),
    ),
    "model_labels": (
        "Images that the model has labeled in tries that passed; missing while people label an "
        "acceptance sample.",
        ("project",),
    ),
    "acceptance_sample": (
        "Images of the acceptance sample that people are labeling, by state: right, error or "
        "pending.",
        ("project", "state"),
    ),
    "versions": ("Sound model versions on disk, including refused ones.", ("project",)),
    "refused_versions": (
        "Model versions on disk that were not promoted automatically because they were worse.",
        ("project",),
    ),
    "training_phase_seconds": (
        "Seconds that each phase of the newest training run of the whole network took.",
        ("project", "phase"),
    ),
    "adapting_progress_ratio": (
        "Share of the expected time for which the body has been adapted to the pool, 0 to 1; "
        "missing if no adaptation has begun that is not complete.",
        ("project",),
    ),
    "adapting_failed": (
        "1 if the last try to adapt the body to the pool failed, otherwise 0.",
        ("project",),
    ),
    "body_accuracy_ratio": (
        "Share of the validation images that a head classified correctly, 0 to 1, with the same "
        "labels on two bodies: before the newest adaptation and after it.",
        ("project", "body"),
    ),
    "order_problem": (
        "1 if annotators do not get the images that the model asks for, because the project's "
        "sampling or model version was changed in Label Studio, otherwise 0.",
        ("project",),
    ),
    "project_gone": ("1 if Label Studio no longer has the project, otherwise 0.", ("project",)),
    "pool_images": ("Images in the pool that are decoded and can be queried.", ("project",)),
    "undecoded_images": ("Images in the pool that are waiting to be decoded.", ("project",)),
    "annotations": ("Annotations in Label Studio, not counting skipped images.", ("project",)),
    "skipped_annotations": ("Number of times that an annotator skipped an image.", ("project",)),
    "open_tasks": ("Images in Label Studio that await their first annotation.", ("project",)),
    "asked_again_tasks": (
        "Annotated images that await another annotator.",
        ("project",),
    ),
    "new_annotations": (
        "Annotations that were added, changed or deleted and that no finished training run has "
        "read yet.",
        ("project",),
    ),
    "annotations_until_training": (
        "New annotations still needed until training is due; training is also due RETRAIN_WAIT "
        "seconds after the first one.",
        ("project",),
    ),
    "jobs": (
        "Jobs by RQ's status: queued (waiting) or started (running).",
        ("project", "job", "status"),
    ),
    "kept_errors": (
        "The project's newest errors, at most ten, by the job in which they occurred.",
        ("project", "where"),
    ),
    "ongoing_errors": (
        "Kept errors of jobs that have not succeeded since; 0 means that nothing is wrong.",
        ("project", "where"),
    ),
}

Sample = tuple[str, tuple[str, ...], float | None]


class Metrics(Collector):
    """The counters of one process, and the state of every project, read at each scrape."""

    def __init__(self, settings: Settings, queue: TrainingQueue) -> None:
        self._settings = settings
        self._queue = queue
        # The text format cannot express creation times, so each would become a separate metric.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._webhook_seconds = Histogram(
            "tightloop_webhook_duration_seconds",
            "Seconds from a webhook's arrival to its response, whatever the response was.",
            buckets=WEBHOOK_BUCKETS_S,
            registry=self._registry,
        )
        self._webhooks = Counter(
            "tightloop_webhooks_total",
            "Webhooks by HTTP status and outcome: counted, ignored (no label changed), "
            "refused (4xx) or failed (5xx).",
            ("outcome", "status"),
            registry=self._registry,
        )
        self._predictions = Counter(
            "tightloop_predictions_total",
            "Images for which /predict returned a prediction.",
            registry=self._registry,
        )
        self._unpredicted = Counter(
            "tightloop_unpredicted_images_total",
            "Images that /predict could not read; their tasks are listed in the log.",
            registry=self._registry,
        )
        self._registry.register(self)

    def record_webhook(self, seconds: float, status: int, outcome: str) -> None:
        """Count a webhook. `outcome` is used only if the webhook was accepted."""
        if status >= 400:
            outcome = "refused" if status < 500 else "failed"
        self._webhook_seconds.observe(seconds)
        self._webhooks.labels(outcome, str(status)).inc()

    def record_predictions(self, predicted: int, unpredicted: int) -> None:
        """Count the images of one /predict request."""
        self._predictions.inc(predicted)
        self._unpredicted.inc(unpredicted)

    def page(self) -> bytes:
        """Return everything in the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the current gauges of all projects."""
        families = {
            name: GaugeMetricFamily(f"tightloop_{name}", description, labels=labels)
            for name, (description, labels) in GAUGES.items()
        }
        for name, labels, value in self._samples():
            if value is not None:
                families[name].add_metric(labels, value)
        return (family for family in families.values() if family.samples)

    def _samples(self) -> Iterator[Sample]:
        down: set[str] = set()
        ids: list[int] = []
        with _recording_failures(down):
            ids = known_projects(self._settings.model_dir)
        with _recording_failures(down):
            for queue, n_workers in self._queue.worker_counts().items():
                yield "workers", (queue,), n_workers
        for project_id in ids:
            if "redis" in down:  # every further attempt would also time out
                break
            with _recording_failures(down):
                yield from _of_project(project_status(self._settings, self._queue, project_id))
        for service in SERVICES:
            yield "up", (service,), service not in down


def _of_project(status: ProjectStatus) -> Iterator[Sample]:
    project = str(status.project_id)
    in_service = status.version is not None
    plain = {
        "round": status.round,
        "trained_labels": status.trained_on_labels if in_service else None,
        "versions": status.versions,
        "refused_versions": len(status.refused),
        "adapting_progress_ratio": _share_adapted(status),
        "adapting_failed": status.adaptation.state == "failed",
        "order_problem": status.order_problem is not None,
        "project_gone": status.is_gone,
        "pool_images": status.pool_images,
        "undecoded_images": status.undecoded_images,
        "annotations": status.annotations,
        "skipped_annotations": status.skipped,
        "open_tasks": status.open_tasks,
        "asked_again_tasks": status.asked_again,
        "new_annotations": status.new_annotations,
        "annotations_until_training": max(status.retrain_after - status.new_annotations, 0),
    }
    for name, value in plain.items():
        yield name, (project,), value
    for split, evaluation in (("validation", status.validation), ("test", status.test)):
        if evaluation is not None:
            yield "accuracy_ratio", (project, split), evaluation.accuracy
            bounds = interval_of(evaluation.accuracy, evaluation.images)
            for bound, share in zip(("low", "high"), bounds, strict=True):
                yield "accuracy_bound_ratio", (project, split, bound), share
    for body in ("before", "after"):
        accuracy = getattr(status.adaptation, f"accuracy_{body}")
        yield "body_accuracy_ratio", (project, body), accuracy
    if (progress := status.validation_labels) is not None:
        yield "validation_labels_wanted", (project,), progress.wanted
        for state in ("labeled", "undecided", "pending"):
            yield "validation_labels", (project, state), getattr(progress, state)
    if (finish := status.finish) is not None and finish.state == "asking":
        n_right, n_pending = finish.decided - finish.errors, finish.sample - finish.decided
        for state, count in (("right", n_right), ("error", finish.errors), ("pending", n_pending)):
            yield "acceptance_sample", (project, state), count
    else:
        yield "model_labels", (project,), finish.model_labels if finish else 0
    for phase, seconds in status.training_seconds.items():
        yield "training_phase_seconds", (project, phase), seconds
    jobs = {(name, state): 0 for name in JOB_NAMES for state in ("queued", "started")}
    jobs |= {(job.job, job.status): 1 for job in status.jobs}
    for (name, state), n_jobs in jobs.items():
        yield "jobs", (project, name, state), n_jobs
    kept = collections.Counter(error.where for error in status.errors)
    ongoing = collections.Counter(error.where for error in status.errors if not error.is_over)
    for where, n_errors in kept.items():
        yield "kept_errors", (project, where), n_errors
        yield "ongoing_errors", (project, where), ongoing[where]


def _share_adapted(status: ProjectStatus) -> float | None:
    done, total = status.adaptation.minutes_done, status.adaptation.minutes_total
    return min(1.0, done / total) if done is not None and total else None


@contextmanager
def _recording_failures(down: set[str]) -> Iterator[None]:
    try:
        yield
    except QueueError:
        down.add("redis")
    except ModelFolderError:
        down.add("model_folder")
