"""Define the jobs that RQ calls by name with a project's id, and explain how failures are handled.

A job may die at any moment without harm, because each step can be repeated: versions and `current`
are renamed into place, tasks are keyed by their image, and existing predictions are not imported
again.

- A step raises an error (`_record_errors`): the dashboard shows the error, the job ends normally,
  and `decide` waits before the next attempt. If the job failed instead, RQ would retry at once.
- `project.db` cannot be written, for example because the disk is full: the job logs this, waits a
  few seconds and ends normally (`_record_failure`). RQ would soon block a job that fails.
- A job's process is killed, for example for using too much memory: RQ reruns the job at most five
  times (`TrainingQueue.enqueue`). Then its id is blocked for two minutes, unless a person requests
  training.
- The worker is killed: its job process continues training until it next reports progress, and then
  exits (`job_progress`). Until then, the project's "train" lock, which the operating system
  releases when the process ends, blocks a second training run. Meanwhile, RQ's lease on the job
  expires, and the clock returns the job to its queue (`TrainingQueue.requeue_abandoned`). The next
  run first removes what the dead run left behind (`TrainingQueue.forget_dead_executions`).
- Redis is lost: workers wait until Redis is back. The clock enqueues what is due at its next tick,
  and finds in Label Studio what the lost hints reported (backend/workers/clock.py).
- Label Studio hangs: a request times out after two minutes (backend/labelstudio/client.py), and the
  step fails with an error. The clock continues with what it has already read.
- An update moves or renames a job: jobs queued in Redis under the old name are deleted and logged,
  and the clock enqueues the job again (backend/queue/own_jobs.py).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from rq import get_current_job

from backend.base.errors import (
    DatabaseError,
    DetachedError,
    LabelStudioError,
    ModelFolderError,
    ProjectGoneError,
    QueueError,
    TightloopError,
    TooFewLabelsError,
)
from backend.base.labeling import LabelingProject
from backend.base.progress import Progress
from backend.base.settings import Settings, load_settings
from backend.labelstudio.attached_project import open_project
from backend.queue.own_jobs import job_id
from backend.queue.training_queue import TrainingQueue
from backend.results.label_export import export_file
from backend.rounds import adapting, batches, finish, ordering, reviews, rounds
from backend.rounds import rescan as rescans
from backend.rounds.decide import Decision, RankStep, State, Step, decide, is_listing_due
from backend.rounds.loop import Loop, open_loop
from backend.rounds.observe import observe, read_changes
from backend.rounds.scoring import scored_part
from backend.store.exports import labels_path
from backend.store.files import lock
from backend.store.project_record import (
    ProjectRecord,
    check_attached,
    project_root,
    read_record,
)
from backend.store.project_store import ProjectStore
from backend.workers.cores import share_cores
from backend.workers.job_progress import job_progress

log = logging.getLogger(__name__)

# How a failed step is described to users.
STEP_NAMES: Mapping[Step, str] = {
    "retrain": "training",
    "rescan": "looking for new images",
    "adapt": "adapting the body",
    "read": "reading annotations",
    "refresh": "re-ordering open tasks",
    "finish": "having the model label the rest",
    "top_up": "querying images",
    "refit": "fitting a head",
    "export": "exporting labels",
    "collect_reviews": "collecting reviews",
}
UNRECORDED_WAIT_S = 5.0
# A ranker's job ends after this long, well before RQ's limit; the clock then enqueues another.
RANK_FOR_S = 60.0
ADAPT_FOR_S = 3600.0
TURN_S = 600.0  # of adapting one project's body while another project's waits
NICENESS = 19  # webhooks and heads come before adapting the body


class Work:
    """The project that a job works on; each part is opened when a step first needs it."""

    def __init__(self, settings: Settings, queue: TrainingQueue, project_id: int) -> None:
        self.settings = settings
        self.queue = queue
        self.project_id = project_id
        self.root = project_root(settings.model_dir, project_id)
        self.store = ProjectStore(self.root)
        self._opened: tuple[ProjectRecord | None, Loop] | None = None

    @cached_property
    def project(self) -> LabelingProject:
        """Return the project in Label Studio."""
        return open_project(self.settings, self.project_id)

    @cached_property
    def progress(self) -> Progress:
        """Return a function that reports and logs the job's progress."""
        return job_progress(self.queue, self.project_id)

    @property
    def loop(self) -> Loop:
        """Return everything that the ranker needs, without scoring images (which takes minutes).

        The loop is opened again if the project's record has changed, for example its classes.
        """
        if self._opened is None or self._opened[0] != read_record(self.root):
            loop = scored_part(self.open_loop())
            self._opened = read_record(self.root), loop
        return self._opened[1]

    def open_loop(self, *, is_for_training: bool = False) -> Loop:
        """Open everything that rounds need, including the images decoded so far."""
        return open_loop(
            self.settings,
            self.project_id,
            # A new connection, which reads the label config as it is now.
            open_project(self.settings, self.project_id),
            is_for_training=is_for_training,
            progress=self.progress,
        )

    def decide(self) -> tuple[State, Decision]:
        """Observe the project and decide what is due now."""
        state = observe(self.root, self.queue, self.project_id)
        return state, decide(state, self.settings, time.time())


def retrain(project_id: int) -> None:
    """Train until no round is due; each round uses the changes made during the previous round."""
    work = _open(project_id)
    with _record_errors(work, "retrain"), lock(work.root, "train"):
        share_cores(work.queue.worker_counts()["train"])
        state, due = work.decide()
        may_repeat = True
        while due.train == "retrain":
            loop = work.open_loop(is_for_training=True)
            try:
                rounds.train_round(loop, is_forced=state.is_training_asked, progress=work.progress)
            except DatabaseError as error:
                if not may_repeat:
                    raise
                log.info("project %d: training failed; checking what is due: %s", project_id, error)
                may_repeat = False
            state, due = work.decide()
    work.queue.notify_clock(project_id)


def rescan(project_id: int) -> None:
    """Look for images that were added or removed, and decode new ones until training is due."""
    work = _open(project_id)
    with _record_errors(work, "rescan"), lock(work.root, "train"):
        share_cores(work.queue.worker_counts()["train"])
        state, due = work.decide()
        while due.train == "rescan":
            must_list = is_listing_due(state, work.settings, time.time())
            rescans.rescan(work.open_loop(), must_list=must_list, progress=work.progress)
            work.queue.notify_clock(project_id)  # so that the new images can be queried
            state, due = work.decide()
    work.queue.notify_clock(project_id)


def adapt(project_id: int) -> None:
    """Adapt the body to the pool until it is done or other work is due; the next job resumes it."""
    work = _open(project_id)
    if get_current_job() is not None:
        os.nice(NICENESS)  # this process runs only this job
    with _record_errors(work, "adapt"), lock(work.root, "train"):
        share_cores(work.queue.worker_counts()["train"])
        if _may_adapt(work, began := time.monotonic()):
            loop = work.open_loop(is_for_training=True)
            adapting.adapt_body(loop, lambda: _may_adapt(work, began), work.progress)
    work.queue.notify_clock(project_id)


def _may_adapt(work: Work, began: float) -> bool:
    """Return whether nothing else is due for the trainer, in this or in another project.

    Projects that adapt their bodies take turns. The job ends well before RQ's limit. Raises
    DetachedError if the project has been detached.
    """
    check_attached(work.root)
    took_s = time.monotonic() - began
    other = [i for i in work.queue.waiting_jobs("train") if i != job_id("adapt", work.project_id)]
    if took_s > ADAPT_FOR_S or (other and took_s > TURN_S):
        return False
    if any(not i.startswith("adapt-") for i in other):
        return False
    return read_record(work.root) is not None and work.decide()[1].train == "adapt"


def rank(project_id: int) -> None:
    """Run the due steps that take only seconds, one after another, until no step is due."""
    work = _open(project_id)
    share_cores(work.queue.worker_counts()["train"])
    job = get_current_job()
    until = time.monotonic() + RANK_FOR_S
    while time.monotonic() < until:
        try:
            state, due = work.decide()
        except ModelFolderError as error:  # the clock also logs this, and checks again
            log.error("project %d: %s", project_id, error)
            break
        if due.train:
            work.queue.enqueue(due.train, project_id, is_forced=state.is_asked(due.train))
        if due.rank is None:
            break
        if job is not None:
            work.queue.report_step(job, due.rank)
        with _record_errors(work, due.rank):
            _run_step(work, due.rank)
    work.queue.notify_clock(project_id)


def _read(work: Work) -> None:
    read_changes(work.project, work.store)
    work.store.record_success("read")


def _export(work: Work) -> None:
    began = time.time()  # a request that a person makes from now on needs another export
    path = labels_path(work.root)
    export_file(work.settings, work.project_id, path, is_forced=True, progress=work.progress)
    work.store.record_success("export", exported_at=began)


def _collect_reviews(work: Work) -> None:
    found = reviews.find_reviews(work.settings, work.root)
    if found is not None:
        reviews.collect_reviews(work.root, work.project, found)
    work.store.record_success("collect_reviews", reviews_read_at=time.time())


# Each step records its completion in the project's database.
STEPS: Mapping[RankStep, Callable[[Work], object]] = {
    "read": _read,
    "refresh": lambda work: ordering.refresh_predictions(work.loop, work.progress),
    "finish": lambda work: finish.follow(work.loop, work.progress),
    "top_up": lambda work: batches.top_up(work.loop, progress=work.progress),
    "refit": lambda work: rounds.refit_head(work.loop, work.progress),
    "export": _export,
    "collect_reviews": _collect_reviews,
}


def _run_step(work: Work, step: RankStep) -> None:
    """Run a step, and run it once more if Label Studio's database failed.

    Nothing is imported twice, because each step first reads what Label Studio already has.
    """
    try:
        STEPS[step](work)
    except DatabaseError as error:
        log.info(
            "project %d: %s failed; trying again: %s", work.project_id, STEP_NAMES[step], error
        )
        STEPS[step](work)


def _open(project_id: int) -> Work:
    settings = load_settings()
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    if (job := get_current_job()) is not None:
        queue.forget_dead_executions(job)
    return Work(settings, queue, project_id)


@contextmanager
def _record_errors(work: Work, step: Step) -> Iterator[None]:
    """Record an error for the dashboard, and record its time to delay the next attempt."""
    try:
        yield
    except TooFewLabelsError as error:
        log.info("project %d: %s has to wait: %s", work.project_id, STEP_NAMES[step], error)
    except (DetachedError, ProjectGoneError) as error:  # the clock reports that a project is gone
        log.info("project %d: %s stopped: %s", work.project_id, STEP_NAMES[step], error)
        _record_failure(work, step)
    except Exception as error:
        where = STEP_NAMES[step]
        if isinstance(error, TightloopError):
            message = str(error)
            log.error("project %d: %s: %s", work.project_id, where, message)
        else:
            message = f"unexpected {type(error).__name__}: see the log of this worker"
            log.exception("project %d: %s", work.project_id, where)
        _record_failure(work, step, message, error)


def _record_failure(
    work: Work, step: Step, message: str = "", error: Exception | None = None
) -> None:
    """Record that a step failed, with the error if it has a message.

    If nothing can be recorded, for example because the disk is full, wait here instead: without a
    recorded time, the next attempt would follow at once.
    """
    try:
        if message:
            work.store.record_error(STEP_NAMES[step], message, step=step)
        now = time.time()
        facts: dict[str, Any] = {}
        # A refused request (4xx) would be refused again.
        is_down = isinstance(error, LabelStudioError) and (error.status or 500) >= 500
        if step == "retrain" and is_down:
            facts = {"unread_at": now}
        # If Label Studio or Redis failed, adapting did not.
        elif step == "adapt" and error and not isinstance(error, LabelStudioError | QueueError):
            n_failures = work.store.facts().adapt_failures + 1
            facts = {"adapt_failures": n_failures, "adapt_error": message}
        work.store.record_failure(step, now, **facts)
    except ModelFolderError as error:
        log.error("project %d: %s", work.project_id, error)
        time.sleep(UNRECORDED_WAIT_S)
