"""Run trials in several processes, and end a command so that it can be resumed."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from scripts.console.progress_bars import progress_bar

T = TypeVar("T")


def run_trials(trial: Callable[[int], T], seeds: Sequence[int], jobs: int) -> Iterator[T]:
    """Yield the result of `trial` for each seed, in order, using `jobs` processes."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with progress_bar() as progress, ProcessPoolExecutor(jobs, context) as processes:
        for number, result in enumerate(processes.map(trial, seeds), 1):
            yield result
            progress("running trials", number, len(seeds))


def run_resumable(work: Callable[[], None]) -> int:
    """Do the work of a command; return its exit code.

    After Ctrl-C or SIGTERM, prints how to resume.
    """
    # Otherwise, the processes that this one has started would outlive it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work()
    except KeyboardInterrupt:
        print("\nstopped: rerun the same command to resume", file=sys.stderr)
        return 130
    return 0
