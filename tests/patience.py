"""Wait in tests, up to one generous limit that a passing test never reaches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# PATIENCE=2 doubles every wait, for a slower machine.
PATIENCE_S = 240.0 * float(os.environ.get("PATIENCE", "1"))


def wait_for(
    what: Callable[[], T | None],
    why: str,
    *,
    every_s: float = 0.25,
    show: Callable[[], str] = str,
) -> T:
    """Call `what` until its result is true, and return it; after PATIENCE_S, fail with `show()`."""
    give_up = time.monotonic() + PATIENCE_S
    while not (found := what()):
        if time.monotonic() >= give_up:
            raise AssertionError(f"gave up waiting for {why}\n{show()}")
        time.sleep(every_s)
    return found
