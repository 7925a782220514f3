"""Our processes: a name in; that process out, running until SIGTERM or Ctrl-C.

    python -m backend.workers.processes trainer

Each loads only what it needs: clock and dashboard load no torch.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading

from redis import Redis
from redis.exceptions import RedisError
from rq import Worker
from rq.serializers import JSONSerializer

from backend.base.command_line import CommandParser, run
from backend.base.errors import QueueError, TightloopError
from backend.base.logs import start_logging
from backend.base.settings import Settings, load_settings
from backend.queue.own_jobs import OwnJob

log = logging.getLogger(__name__)


def run_backend(settings: Settings) -> None:
    """The Label Studio ML backend over HTTP."""
    from backend.web.server import serve
    from backend.web.serving import create_app
    from backend.workers.cores import share_cores

    share_cores()  # so that webhooks are answered during a /predict
    serve(create_app(settings), settings)


def run_dashboard(settings: Settings) -> None:
    """The dashboard alone, for a network where the ML backend's routes shall not be."""
    from backend.web.dashboard import create_app
    from backend.web.server import serve

    serve(create_app(settings), settings)


def run_trainer(settings: Settings) -> None:
    """The worker that retrains; it stops at once where DEVICE=cuda finds no GPU."""
    from backend.network.device import find_device

    # Asks the driver's library instead of CUDA, which must not be touched before a fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    log.info("this trainer trains on %s", find_device(settings.device))
    _work(settings, "train")


def run_ranker(settings: Settings) -> None:
    """The worker for what takes seconds and must not wait behind a training."""
    _work(settings, "rank")


def run_clock(settings: Settings) -> None:
    """The clock, until a signal stops it."""
    from backend.workers import clock

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    clock.run(settings, stop)


PROCESSES = {
    "backend": run_backend,
    "dashboard": run_dashboard,
    "trainer": run_trainer,
    "ranker": run_ranker,
    "clock": run_clock,
}


def main() -> int:
    """Run one of PROCESSES; 1 where its settings, or the machine, do not allow it."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("process", choices=PROCESSES)
    arguments = parser.parse_args()
    try:
        settings = load_settings()
    except TightloopError as error:
        sys.exit(str(error))
    start_logging(settings.log_format)
    try:
        PROCESSES[arguments.process](settings)
    except TightloopError as error:
        log.error("%s", error)
        return 1
    return 0


def _work(settings: Settings, queue: str) -> None:
    """RQ's worker, which forks for every job."""
    # Loads torch once, before the fork, and not in every job; CUDA is first touched in the child.

    # Else every job's garbage collection goes through all of torch: 0.3 s at a time.
    gc.collect()
    gc.freeze()
    try:
        Worker(
            [queue],
            connection=Redis.from_url(settings.redis_url.get_secret_value()),
            serializer=JSONSerializer,  # pickle runs code while it is read
            job_class=OwnJob,
            # So that a killed worker, and soon after its job, is missed.
            worker_ttl=30,
            job_monitoring_interval=5,
            maintenance_interval=15,
        ).work()
    except RedisError as error:
        # At its start alone: later it waits by itself until Redis is back.
        raise QueueError(f"Redis cannot be used ({type(error).__name__}): see REDIS_URL") from None
    finally:
        gc.unfreeze()  # else triton says at the end, and not in JSON, that its objects leaked


if __name__ == "__main__":
    run(main)
