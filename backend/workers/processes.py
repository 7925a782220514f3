"""Start one of Tightloop's processes, which runs until SIGTERM or Ctrl-C.

    python -m backend.workers.processes trainer

Each process imports only what it needs; for example, the clock and the dashboard do not import
torch.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
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
from backend.queue.training_queue import JOB_MONITORING_INTERVAL_S

log = logging.getLogger(__name__)


def run_backend(settings: Settings) -> None:
    """Serve the Label Studio ML backend over HTTP."""
    import torchvision  # noqa: F401  # this is slow, so import it before the first request

    from backend.web.server import serve
    from backend.web.serving import create_app
    from backend.workers.cores import share_cores

    share_cores()  # leaves one core free to answer webhooks during a /predict request
    serve(create_app(settings), settings)


def run_dashboard(settings: Settings) -> None:
    """Serve only the dashboard, for a network that must not reach the ML backend's routes."""
    from backend.web.dashboard import create_app
    from backend.web.server import serve

    serve(create_app(settings), settings)


def run_trainer(settings: Settings) -> None:
    """Run the worker that retrains; stop immediately if DEVICE=cuda and no GPU is available."""
    from backend.network.device import find_device

    # Query the driver's library, because CUDA must not be initialized before a fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    log.info("this trainer trains on %s", find_device(settings.device))
    _work(settings, "train")


def run_ranker(settings: Settings) -> None:
    """Run the worker for jobs that take seconds and must not wait for training."""
    _work(settings, "rank")


def run_clock(settings: Settings) -> None:
    """Run the clock until a signal stops it."""
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
    """Run one of PROCESSES; return 1 if it cannot run on this machine."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("process", choices=PROCESSES)
    arguments = parser.parse_args()
    settings = load_settings()
    start_logging(settings.log_format)
    try:
        PROCESSES[arguments.process](settings)
    except TightloopError as error:
        log.error("%s", error)
        return 1
    return 0


def _work(settings: Settings, queue: str) -> None:
    """Run an RQ worker, which forks a child process for each job."""
    # Import the slow libraries once before forking instead of in every job. Each child initializes
    # CUDA.
    import torchvision  # noqa: F401
    from cleanlab import multiannotator  # noqa: F401
    from scipy import optimize, stats  # noqa: F401
    from sklearn import cluster, linear_model  # noqa: F401

    from backend.workers import jobs  # noqa: F401

    # Otherwise, each garbage collection in a job would traverse all of torch, which takes 0.3 s.
    gc.collect()
    gc.freeze()
    try:
        Worker(
            [queue],
            connection=Redis.from_url(settings.redis_url.get_secret_value()),
            serializer=JSONSerializer,  # unpickling could run arbitrary code
            job_class=OwnJob,
            # Detect a killed worker quickly, and give its job to another worker.
            worker_ttl=30,
            job_monitoring_interval=JOB_MONITORING_INTERVAL_S,
            maintenance_interval=15,
        ).work()
    except RedisError as error:
        # This occurs only at startup: a running worker waits until Redis is back.
        raise QueueError(
            f"Redis cannot be used ({type(error).__name__}): check REDIS_URL"
        ) from None
    finally:
        gc.unfreeze()  # otherwise, triton reports leaked objects at exit, in text that is not JSON


if __name__ == "__main__":
    run(main)
