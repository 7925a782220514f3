"""Report the progress of a job to Redis and to the log."""

from __future__ import annotations

import logging
import os
import time

from rq import get_current_job

from backend.base.progress import Progress, ProgressLines
from backend.queue.training_queue import TrainingQueue

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5


def job_progress(queue: TrainingQueue, project_id: int) -> Progress:
    """Return a function that reports and logs the job's progress.

    The function ends the job's process once its worker is gone, because RQ gives the job to another
    worker, and two processes that finish the same job would conflict in Redis.
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
