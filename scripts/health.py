"""Whether one of our processes does its work, for a container's health check.

    python -m scripts.health trainer

Says nothing, or what is wrong. It must run on the machine, or in the container, of that process.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from urllib.request import urlopen

from backend.base.command_line import CommandParser, run
from backend.base.errors import TightloopError
from backend.base.settings import Settings, load_settings

# Twice as long as an idle worker may be silent, and many ticks of the clock.
SILENCE_S = 60.0


def main() -> int:
    """Check one process."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("process", choices=CHECKS)
    process = parser.parse_args().process
    try:
        silent_s = time.time() - CHECKS[process](load_settings())
    except (TightloopError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if silent_s > SILENCE_S:
        print(f"no sign of life of the {process} for {SILENCE_S:.0f} s", file=sys.stderr)
        return 1
    return 0


def server_seen_at(settings: Settings) -> float:
    """Now, if it answers."""
    with urlopen(f"http://127.0.0.1:{settings.backend_port}/health", timeout=5):
        return time.time()


def worker_seen_at(settings: Settings) -> float:
    """The last sign of life of a worker on this machine."""
    from backend.queue.training_queue import TrainingQueue

    queue = TrainingQueue(settings.redis_url.get_secret_value())
    return queue.worker_seen_at(socket.gethostname())


def clock_ticked_at(settings: Settings) -> float:
    """The clock's last tick."""
    from backend.queue.training_queue import TrainingQueue

    return TrainingQueue(settings.redis_url.get_secret_value()).ticked_at()


CHECKS: dict[str, Callable[[Settings], float]] = {
    "backend": server_seen_at,
    "dashboard": server_seen_at,
    "trainer": worker_seen_at,
    "ranker": worker_seen_at,
    "clock": clock_ticked_at,
}


if __name__ == "__main__":
    run(main)
