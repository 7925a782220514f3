"""Run work in background threads during a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event


@contextmanager
def in_background(work: Callable[[Event, int], None], count: int = 1) -> Iterator[None]:
    """Run `work(over, number)` in `count` threads, and set `over` when the block ends.

    Waits for the threads, and raises their first error.
    """
    over = Event()
    with ThreadPoolExecutor(count) as threads:
        working = [threads.submit(work, over, number) for number in range(count)]
        try:
            yield
        finally:
            over.set()
    for thread in working:
        thread.result()
