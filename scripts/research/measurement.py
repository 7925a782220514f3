"""Measure processes and run background work for the benchmark; define the rows of its table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

import numpy as np
import psutil

MB = 1024**2


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    target: str = "measured"


def print_table(figures: Sequence[Figure]) -> None:
    """Print one line per figure: name, value and target."""
    name_width = max(len(figure.name) for figure in figures)
    value_width = max(len(figure.value) for figure in figures)
    for figure in figures:
        print(f"{figure.name:<{name_width}}  {figure.value:<{value_width}}  {figure.target}")


def percentiles(seconds: Sequence[float]) -> str:
    """Return the median and the 99th percentile in milliseconds."""
    p50, p99 = np.percentile(seconds or [np.nan], [50, 99]) * 1000
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def announce(what: str) -> None:
    """Print to standard error what is measured next."""
    print(what, file=sys.stderr, flush=True)


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


def memory_mb(pid: int) -> float:
    """Return the total PSS of a process and its children in MB, or 0 if they have ended."""
    try:
        return sum(process.memory_full_info().pss for process in _tree(pid)) / MB
    except psutil.NoSuchProcess:
        return 0.0


def core_share(pid: int, seconds: float) -> float:
    """Return the share of a core that a process and its children use; 1.0 is one whole core."""
    tree = _tree(pid)
    for process in tree:
        process.cpu_percent()  # the measurement starts here
    time.sleep(seconds)
    return sum(process.cpu_percent() for process in tree) / 100


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
