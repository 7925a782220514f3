"""Wait in tests, up to one generous limit that a passing test never reaches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# PATIENCE=2 doubles every wait, for a slower machine.
PATIENCE_S = 240.0 * float(os.environ.get("PATIENCE", "1"))
MAX_PAUSE_S = 1.5


def wait_for(
    what: Callable[[], T | None],
    why: str,
    *,
    every_s: float = 0.1,
    show: Callable[[], str] = str,
) -> T:
    """Call `what` until its result is true, and return it; after PATIENCE_S, fail with `show()`.

    Each call takes time from the processes that the test waits for, so calls become rarer: the
    pause grows to a tenth of the time waited so far, but not beyond MAX_PAUSE_S.
    """
    began = time.monotonic()
    give_up = began + PATIENCE_S
    while not (found := what()):
        if time.monotonic() >= give_up:
            raise AssertionError(f"gave up waiting for {why}\n{show()}")
        time.sleep(max(every_s, min((time.monotonic() - began) / 10, MAX_PAUSE_S)))
    return found
