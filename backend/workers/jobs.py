"""The functions that RQ calls by name, with a project's id; here errors become something people can
read.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from rq import get_current_job

from backend.base.errors import ModelFolderError, TightloopError, TooFewLabelsError
from backend.base.labeling import LabelingProject
from backend.base.progress import Progress, ProgressLines
from backend.base.settings import Settings, load_settings
from backend.labelstudio.project import LabelStudioProject
from backend.queue.training_queue import TrainingQueue
from backend.rounds import batches, ordering, reviews, rounds
from backend.rounds.decide import Policy, RankStep, State, Step, decide
from backend.rounds.loop import Loop, open_loop
from backend.rounds.observe import observe, policy_of, read_changes
from backend.store.locks import lock
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from backend.workers.cores import share_cores

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
# Where people read that a step failed.
TELLS: Mapping[str, str] = {
    "retrain": "training",
    "read": "reading annotations",
    "refresh": "re-ordering open tasks",
    "top_up": "asking images",
    "refit": "fitting a head",
    "collect_reviews": "collecting reviews",
}
# Then the clock enqueues another job: RQ gives up one that runs for too long.
LOOK_FOR_S = 60.0


class Work:
    """What a job works with: one project, opened as far as its steps need it."""

    def __init__(self, settings: Settings, queue: TrainingQueue, project_id: int) -> None:
        self.settings = settings
        self.queue = queue
        self.project_id = project_id
        self.policy: Policy = policy_of(settings)
        self.root: Path = project_root(settings.model_dir, project_id)
        self.store = ProjectStore(self.root)

    @cached_property
    def project(self) -> LabelingProject:
        """The project in Label Studio."""
        return LabelStudioProject(
            self.settings.label_studio_url,
            self.settings.label_studio_api_key.get_secret_value(),
            self.project_id,
        )

    @cached_property
    def progress(self) -> Progress:
        """Report what the job does, and end it once its worker is gone."""
        return _job_progress(self.queue, self.project_id)

    @cached_property
    def loop(self) -> Loop:
        """All that rounds need; the pool as the last training found it."""
        return self.open_loop(rescan=False)

    def open_loop(self, *, rescan: bool) -> Loop:
        """The same, with `rescan` after a look for new images."""
        return open_loop(
            self.settings, self.project_id, self.project, rescan=rescan, progress=self.progress
        )

    def observe(self) -> State:
        """Gather what decides."""
        return observe(self.root, self.queue, self.project_id)


def retrain(project_id: int) -> None:
    """Train rounds until none is due; changes that come in meanwhile are in the next round."""
    work = _open(project_id)
    # A training whose worker was killed may still be running: there is never a second one beside
    # it.
    with _errors_for_people(work, "retrain"), lock(work.root, "train"):
        share_cores(work.queue.worker_counts()["train"])
        while decide(state := work.observe(), work.policy, time.time()).train:
            try:
                rounds.train_round(
                    work.open_loop(rescan=True),
                    is_forced=state.is_training_asked,
                    progress=work.progress,
                )
            except TooFewLabelsError as error:
                log.info("project %d: no training yet: %s", project_id, error)
    work.queue.say_look(project_id)


def rank(project_id: int) -> None:
    """Do what is due and takes seconds, one step after the other, until nothing is left."""
    work = _open(project_id)
    share_cores(work.queue.worker_counts()["train"])
    job = get_current_job()
    until = time.monotonic() + LOOK_FOR_S
    while time.monotonic() < until:
        try:
            state = work.observe()
        except ModelFolderError as error:  # the clock says it too, and looks again
            log.error("project %d: %s", project_id, error)
            break
        due = decide(state, work.policy, time.time())
        if due.train:
            work.queue.enqueue_retrain(project_id, is_forced=state.is_training_asked)
        if due.rank is None:
            break
        if job is not None:
            work.queue.report_step(job, due.rank)
        with _errors_for_people(work, due.rank):
            ACT[due.rank](work)
    work.queue.say_look(project_id)


def _read(work: Work) -> None:
    read_changes(work.project, work.store)
    work.store.record_success("read")


def _refit(work: Work) -> None:
    try:
        rounds.refit_head(work.loop, work.progress)
    except TooFewLabelsError as error:
        log.info("project %d: no head yet: %s", work.project_id, error)


def _collect_reviews(work: Work) -> None:
    found = reviews.find_reviews(work.settings, work.root)
    if found is not None:
        reviews.collect_reviews(work.root, work.project, found)
    work.store.record_success("collect_reviews", reviews_read_at=time.time())


# Each leaves behind, in the project's database, that it was done.
ACT: Mapping[RankStep, Callable[[Work], object]] = {
    "read": _read,
    "refresh": lambda work: ordering.refresh_predictions(work.loop, work.progress),
    "top_up": lambda work: batches.top_up(work.loop, progress=work.progress),
    "refit": _refit,
    "collect_reviews": _collect_reviews,
}


def _open(project_id: int) -> Work:
    settings = load_settings()
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    if (job := get_current_job()) is not None:
        queue.forget_dead_executions(job)
    return Work(settings, queue, project_id)


@contextmanager
def _errors_for_people(work: Work, step: Step) -> Iterator[None]:
    """Keep an error where people see it, and let the step wait a while before its next try.

    The job ends well all the same: RQ would try again at once, and the clock does so in its time.
    """
    try:
        yield
    except Exception as error:
        where = TELLS[step]
        if isinstance(error, TightloopError):
            message = str(error)
            log.error("project %d: %s: %s", work.project_id, where, message)
        else:
            message = f"unexpected {type(error).__name__}: see the log of this worker"
            log.exception("project %d: %s", work.project_id, where)
        work.store.record_error(where, message)
        work.store.record_failure(step, time.time())


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
