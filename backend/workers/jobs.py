"""The functions that RQ calls by name with a project's id; and what happens when something dies.

A job may die at any moment, because each step can be repeated: versions and `current` are renamed
into place, tasks are keyed by their image, and predictions that exist are not imported again.

- An error in a step (`_record_errors`): people see it, the job ends well, and `decide` waits before
  the next try. RQ itself would try again at once.
- The process of a job is killed, for instance for its memory: RQ runs the job again, five times at
  most (`TrainingQueue.enqueue`). Then its id is blocked for two minutes, unless a person asks for a
  training.
- The worker is killed: its process for the job trains on. It ends itself when it next reports
  progress (`_job_progress`). Until then the project's "train" lock, which the operating system
  releases with the process, keeps a second training waiting. Meanwhile RQ's lease on the job runs
  out, and the clock puts the job back into its queue (`TrainingQueue.requeue_abandoned`). The next
  run first removes what is left of the dead one (`TrainingQueue.forget_dead_executions`).
- Redis is lost: workers wait until it is back. The clock enqueues what is due with its next tick,
  and finds in Label Studio what lost hints would have said (backend/workers/clock.py).
- Label Studio hangs: a request gives up after two minutes (backend/labelstudio/client.py), and the
  step fails with an error. The clock goes on with what it has read.
- An update moves or renames a job: what waits in Redis under the old name is dropped with a log
  line, and the clock enqueues the job again (backend/queue/own_jobs.py).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

from rq import get_current_job

from backend.base.errors import ModelFolderError, TightloopError, TooFewLabelsError
from backend.base.labeling import LabelingProject
from backend.base.progress import Progress, ProgressLines
from backend.base.settings import Settings, load_settings
from backend.labelstudio.project import LabelStudioProject
from backend.queue.training_queue import TrainingQueue
from backend.rounds import batches, ordering, reviews, rounds
from backend.rounds.decide import Decision, RankStep, State, Step, decide
from backend.rounds.loop import Loop, open_loop
from backend.rounds.observe import observe, policy_of, read_changes
from backend.store.locks import lock
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from backend.workers.cores import share_cores

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
# What people read when a step has failed.
STEP_NAMES: Mapping[Step, str] = {
    "retrain": "training",
    "read": "reading annotations",
    "refresh": "re-ordering open tasks",
    "top_up": "asking images",
    "refit": "fitting a head",
    "collect_reviews": "collecting reviews",
}
# A ranker's job ends after this long, well before RQ's limit; the clock enqueues the next.
RANK_FOR_S = 60.0


class Work:
    """The project that a job works on, opened as far as its steps need it."""

    def __init__(self, settings: Settings, queue: TrainingQueue, project_id: int) -> None:
        self.settings = settings
        self.queue = queue
        self.project_id = project_id
        self.root = project_root(settings.model_dir, project_id)
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
        """Report and log what the job does, and end it once its worker is gone."""
        return _job_progress(self.queue, self.project_id)

    @cached_property
    def loop(self) -> Loop:
        """Everything that rounds need, with the pool as the last training found it."""
        return self.open_loop(rescan=False)

    def open_loop(self, *, rescan: bool) -> Loop:
        """Open the same; with `rescan`, look for new images in the pool."""
        return open_loop(
            self.settings, self.project_id, self.project, rescan=rescan, progress=self.progress
        )

    def decide(self) -> tuple[State, Decision]:
        """Observe the project and decide what is due now."""
        state = observe(self.root, self.queue, self.project_id)
        return state, decide(state, policy_of(self.settings), time.time())


def retrain(project_id: int) -> None:
    """Train rounds until none is due: what changes during one is learned by the next."""
    work = _open(project_id)
    with _record_errors(work, "retrain"), lock(work.root, "train"):
        share_cores(work.queue.worker_counts()["train"])
        state, due = work.decide()
        while due.train:
            loop = work.open_loop(rescan=True)
            rounds.train_round(loop, is_forced=state.is_training_asked, progress=work.progress)
            state, due = work.decide()
    work.queue.notify_clock(project_id)


def rank(project_id: int) -> None:
    """Take the steps that are due and last seconds, one after the other, until none is left."""
    work = _open(project_id)
    share_cores(work.queue.worker_counts()["train"])
    job = get_current_job()
    until = time.monotonic() + RANK_FOR_S
    while time.monotonic() < until:
        try:
            state, due = work.decide()
        except ModelFolderError as error:  # the clock logs it as well, and looks again
            log.error("project %d: %s", project_id, error)
            break
        if due.train:
            work.queue.enqueue("retrain", project_id, is_forced=state.is_training_asked)
        if due.rank is None:
            break
        if job is not None:
            work.queue.report_step(job, due.rank)
        with _record_errors(work, due.rank):
            STEPS[due.rank](work)
    work.queue.notify_clock(project_id)


def _read(work: Work) -> None:
    read_changes(work.project, work.store)
    work.store.record_success("read")


def _collect_reviews(work: Work) -> None:
    found = reviews.find_reviews(work.settings, work.root)
    if found is not None:
        reviews.collect_reviews(work.root, work.project, found)
    work.store.record_success("collect_reviews", reviews_read_at=time.time())


# Each records in the project's database that it was done.
STEPS: Mapping[RankStep, Callable[[Work], object]] = {
    "read": _read,
    "refresh": lambda work: ordering.refresh_predictions(work.loop, work.progress),
    "top_up": lambda work: batches.top_up(work.loop, progress=work.progress),
    "refit": lambda work: rounds.refit_head(work.loop, work.progress),
    "collect_reviews": _collect_reviews,
}


def _open(project_id: int) -> Work:
    settings = load_settings()
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    if (job := get_current_job()) is not None:
        queue.forget_dead_executions(job)
    return Work(settings, queue, project_id)


@contextmanager
def _record_errors(work: Work, step: Step) -> Iterator[None]:
    """Record an error for people to see, and when it happened, so that the next try waits."""
    try:
        yield
    except TooFewLabelsError as error:
        log.info("project %d: %s has to wait: %s", work.project_id, STEP_NAMES[step], error)
    except Exception as error:
        where = STEP_NAMES[step]
        if isinstance(error, TightloopError):
            message = str(error)
            log.error("project %d: %s: %s", work.project_id, where, message)
        else:
            message = f"unexpected {type(error).__name__}: see the log of this worker"
            log.exception("project %d: %s", work.project_id, where)
        work.store.record_error(where, message)
        work.store.record_failure(step, time.time())


def _job_progress(queue: TrainingQueue, project_id: int) -> Progress:
    """Report and log what the job does, and end it once its worker is gone: RQ gives the job to
    another worker, and two that finished the same job would disturb each other in Redis.
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
