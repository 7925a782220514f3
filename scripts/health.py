"""Check whether one of Tightloop's processes is working, as a container's health check.

    python -m scripts.health trainer

Prints the problem, or nothing if the process is healthy. Run the command on the machine, or in the
container, in which the process runs.
"""

from __future__ import annotations

import socket
import sys
import time
from urllib.request import urlopen

from backend.base.command_line import CommandParser, run
from backend.base.settings import Settings, load_settings

# Twice as long as an idle worker can be silent, and much longer than the clock's interval.
SILENCE_S = 60.0


def main() -> int:
    """Check one process."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("process", choices=("backend", "dashboard", "trainer", "ranker", "clock"))
    process = parser.parse_args().process
    try:
        silent_s = time.time() - seen_at(process, load_settings())
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    if silent_s > SILENCE_S:
        print(f"no sign of life from the {process} for {SILENCE_S:.0f} s", file=sys.stderr)
        return 1
    return 0


def seen_at(process: str, settings: Settings) -> float:
    """Return the time of a process's last sign of life.

    Raises OSError if a server does not respond.
    """
    if process in ("backend", "dashboard"):
        with urlopen(f"http://127.0.0.1:{settings.backend_port}/health", timeout=5):
            return time.time()
    # Imported here because the checks of servers, which are frequent, do not need it.
    from backend.queue.training_queue import TrainingQueue

    queue = TrainingQueue(settings.redis_url.get_secret_value())
    return queue.ticked_at() if process == "clock" else queue.worker_seen_at(socket.gethostname())


if __name__ == "__main__":
    run(main)
