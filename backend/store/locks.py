"""Lock a project so that only one process at a time trains, promotes or pushes tasks."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from backend.base.errors import ModelFolderError
from backend.store.files import folder_errors

LOCK_POLL_S = 0.2


@contextmanager
def lock(
    root: Path,
    name: Literal["train", "head", "push", "promote", "review"],
    wait_s: float | None = None,
) -> Iterator[None]:
    """Hold one of the project's locks; the operating system releases it if the process dies.

    See backend/workers/jobs.py for what happens when a worker dies.
    Waits indefinitely, or raises ModelFolderError after `wait_s` seconds.
    """
    path = root / f"{name}.lock"
    give_up = None if wait_s is None else time.monotonic() + wait_s
    with folder_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if give_up is not None and time.monotonic() > give_up:
                    raise ModelFolderError(
                        f"{path} is held by another process: wait for it to end and try again"
                    ) from None
                time.sleep(LOCK_POLL_S)
        yield
