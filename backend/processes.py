"""Our processes: a name in; that process out, running until SIGTERM or Ctrl-C.

    python -m backend.processes trainer

Each loads only what it needs: the clock no torch, gunicorn's master none of the application.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from importlib import import_module
from typing import Any

from gunicorn.app.base import BaseApplication
from redis import Redis
from redis.exceptions import RedisError
from rq import Worker
from rq.serializers import JSONSerializer

from backend.command import CommandParser, run
from backend.errors import QueueError, TightloopError
from backend.logs import logging_config, start_logging
from backend.own_jobs import OwnJob
from backend.settings import Settings, load_settings

log = logging.getLogger(__name__)


class Server(BaseApplication):  # type: ignore[misc]  # the library has no types
    """Gunicorn over an application: one process with threads, so one model in memory.

    `module` is where its create_app is, loaded in the worker alone.
    """

    def __init__(self, settings: Settings, module: str) -> None:
        self._settings = settings
        self._module = module
        super().__init__()

    def load_config(self) -> None:
        """What would stand on gunicorn's command line."""
        options = {
            "bind": f"{self._settings.backend_host}:{self._settings.backend_port}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": 8,
            "keepalive": 5,  # an open dashboard asks every two seconds
            "timeout": 120,
            "graceful_timeout": 5,
            "control_socket_disable": True,
            "logconfig_dict": logging_config(self._settings.log_format),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """In the worker, after the fork."""
        return import_module(self._module).create_app(self._settings)


def run_backend(settings: Settings) -> None:
    """The Label Studio ML backend over HTTP."""
    settings.require("backend_password", "webhook_secret")
    Server(settings, "backend.serving").run()


def run_dashboard(settings: Settings) -> None:
    """The dashboard alone, for a network where the ML backend's routes shall not be."""
    settings.require("dashboard_password")
    Server(settings, "backend.dashboard").run()


def run_trainer(settings: Settings) -> None:
    """The worker that retrains; it stops at once where DEVICE=cuda finds no GPU."""
    from backend.device import find_device

    # Asks the driver's library instead of CUDA, which must not be touched before a fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    log.info("this trainer trains on %s", find_device(settings.device))
    _work(settings, "train")


def run_ranker(settings: Settings) -> None:
    """The worker for what takes seconds and must not wait behind a training."""
    _work(settings, "rank")


def run_clock(settings: Settings) -> None:
    """The clock, until a signal stops it."""
    from backend import clock

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
    from backend import jobs  # noqa: F401

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


if __name__ == "__main__":
    run(main)
