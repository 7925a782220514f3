"""Listen to supervisord's events: report restarts, and keep the pids in stack.json up to date.

supervisord runs this listener and communicates with it over standard input and output
(https://supervisord.org/events.html).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from supervisor.childutils import get_headers, listener

from scripts.local.folder import StackFolder
from scripts.local.supervisor import connect

TRIES_BEFORE_REPORT = 5


def watch(folder: StackFolder) -> None:
    """Handle events one by one; each event reports that a program is starting."""
    supervisor = connect(folder)
    while True:
        _, payload = listener.wait()
        report(folder, get_headers(payload))
        infos = supervisor.getAllProcessInfo()
        pids = {info["name"]: info["pid"] for info in infos if info["pid"]}
        folder.update(pids=folder.read()["pids"] | pids)
        listener.ok()


def report(folder: StackFolder, event: dict[str, str]) -> None:
    """Report a program that died, with the end of its log."""
    name = event["processname"]
    if event["from_state"] == "EXITED":
        happened = f"{name} died and was started again"
    elif int(event["tries"]) == TRIES_BEFORE_REPORT:
        happened = f"{name} keeps dying: each further try waits a second longer"
    else:
        return
    now = time.strftime("%H:%M:%S")
    print(f"{now} {happened}{folder.tail(name)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    watch(StackFolder(Path(os.environ["VAR_DIR"])))
