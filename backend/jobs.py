"""The functions that RQ calls by name, with a project's id; here errors become something people can
read.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from rq import get_current_job

from backend import registry, reviews, rounds
from backend.cores import share_cores
from backend.errors import TightloopError, TooFewLabelsError
from backend.labelstudio import LabelingProject
from backend.loop import open_loop
from backend.progress import Progress, ProgressLines
from backend.query import batch_is_due
from backend.settings import Settings, load_settings
from backend.training_queue import RETRY_AFTER_ERROR_S, TrainingQueue

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
# Label Studio stores predictions for every open task each time, and keeps those that a browser may
# still name.
REFIT_EVERY_S = 5.0


def retrain(project_id: int) -> None:
    """Train rounds until none is due; changes that come in meanwhile are in the next round."""
    settings, queue, project = _open(project_id)
    root = registry.project_root(settings.model_dir, project_id)
    # A training whose worker was killed may still be running: there is never a second one beside
    # it.
    with (
        _errors_for_people(queue, project_id, "training", is_training=True),
        registry.hold(root, "train"),
    ):
        share_cores(queue.worker_counts()["train"])
        while True:
            started_at = time.time()
            # Read before the annotations: what changes in between is read twice, and never missed.
            before = queue.generation(project_id)
            if not before.is_due(
                started_at,
                retrain_after=settings.retrain_after,
                retrain_wait_s=settings.retrain_wait_s,
            ):
                return
            progress = _job_progress(queue, project_id)
            try:
                loop = open_loop(settings, project_id, project, progress=progress)
                rounds.train_round(loop, is_forced=before.is_forced, progress=progress)
            except TooFewLabelsError as error:
                log.info("project %d: no training yet: %s", project_id, error)
                queue.note_facts(project_id, {"waiting_for": str(error)})
            else:
                queue.note_facts(project_id, {"waiting_for": None})
            queue.finish_round(project_id, before.generation, started_at)
            queue.note_facts(project_id, asdict(project.counts()))


def top_up(project_id: int) -> None:
    """Ask the next batch if people may soon run out of tasks."""
    settings, queue, project = _open(project_id)
    with _errors_for_people(queue, project_id, "asking images"):
        counts = project.counts()
        rounds_done = registry.last_round(registry.project_root(settings.model_dir, project_id))
        is_due = batch_is_due(counts.open, settings.batch_size, rounds_done, settings.rounds)
        if is_due or settings.overlap in ("2", "3"):
            share_cores(queue.worker_counts()["train"])
            progress = _job_progress(queue, project_id)
            loop = open_loop(settings, project_id, project, rescan=False, progress=progress)
            pushed = rounds.top_up(loop, progress=progress)
            counts = project.counts()
            is_exhausted = is_due and not pushed and counts.open < settings.batch_size
            queue.note_facts(project_id, {"is_exhausted": is_exhausted})
        queue.note_facts(project_id, asdict(counts))


def refit(project_id: int) -> None:
    """Fit a head to the answers so far, and order the open tasks by it; also during a training."""
    settings, queue, project = _open(project_id)
    share_cores(queue.worker_counts()["train"])
    before = queue.generation(project_id)
    # Should it fail, the next try waits as a training's would.
    queue.finish_refit(project_id, before.refitted, time.time() + RETRY_AFTER_ERROR_S)
    with _errors_for_people(queue, project_id, "fitting a head"):
        progress = _job_progress(queue, project_id)
        loop = open_loop(settings, project_id, project, rescan=False, progress=progress)
        try:
            rounds.refit_head(loop, progress)
        except TooFewLabelsError as error:
            log.info("project %d: no head yet: %s", project_id, error)
        queue.finish_refit(project_id, before.generation, time.time() + REFIT_EVERY_S)


def refresh(project_id: int) -> None:
    """Order the open tasks by the version in service, after a roll-back say."""
    settings, queue, project = _open(project_id)
    share_cores(queue.worker_counts()["train"])
    with _errors_for_people(queue, project_id, "re-ordering open tasks"):
        progress = _job_progress(queue, project_id)
        loop = open_loop(settings, project_id, project, rescan=False, progress=progress)
        rounds.refresh_predictions(loop, progress)


def collect_reviews(project_id: int) -> None:
    """Make ground truth of what was reviewed since the last look."""
    settings, queue, project = _open(project_id)
    with _errors_for_people(queue, project_id, "collecting reviews"):
        root = registry.project_root(settings.model_dir, project_id)
        if (found := reviews.find_reviews(settings, root)) is not None:
            reviews.collect_reviews(root, project, found)


def _open(project_id: int) -> tuple[Settings, TrainingQueue, LabelingProject]:
    settings = load_settings()
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    if (job := get_current_job()) is not None:
        queue.forget_dead_executions(job)
    return (
        settings,
        queue,
        LabelingProject(
            settings.label_studio_url, settings.label_studio_api_key.get_secret_value(), project_id
        ),
    )


@contextmanager
def _errors_for_people(
    queue: TrainingQueue, project_id: int, where: str, *, is_training: bool = False
) -> Iterator[None]:
    """Keep an error where people see it; a training waits a while before its next try.

    The job ends well all the same: RQ would try again at once, and the clock does so in its time.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, TightloopError):
            message = str(error)
            log.error("project %d: %s: %s", project_id, where, message)
        else:
            message = f"unexpected {type(error).__name__}: see the log of this worker"
            log.exception("project %d: %s", project_id, where)
        queue.note_error(project_id, where, message)
        if is_training:
            queue.postpone(project_id, time.time() + RETRY_AFTER_ERROR_S)


def _job_progress(queue: TrainingQueue, project_id: int) -> Progress:
    """Report and log what the job is doing; end it once its worker is gone.

    RQ gives the job of a killed worker to another one. Two that finish the same job would trip over
    each other's traces in Redis.
    """
    job = get_current_job()
    worker = os.getppid()
    last = ("", 0.0)
    log_lines = ProgressLines(lambda line: log.info("project %d: %s", project_id, line))

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last
        if os.getppid() != worker:
            os._exit(1)
        log_lines(phase, done, total)
        now = time.monotonic()
        if job is not None and (phase != last[0] or now - last[1] >= PROGRESS_EVERY_S):
            last = (phase, now)
            queue.report_progress(job, phase, done, total)

    return report
