"""Measure the peak memory of work, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Event
from typing import TypeVar

from scripts.research.measurement import MB, in_background

SAMPLE_EVERY_S = 0.01

Given = TypeVar("Given")
Result = TypeVar("Result")


def in_process(
    work: Callable[[Given], Result], given: Given, prepare: Callable[[], None] | None = None
) -> tuple[Result, float]:
    """Run `work` in a new process; return its result and its peak anonymous memory in MB.

    The process runs `prepare` first, if there is one.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=prepare) as processes:
        return processes.submit(_watch, work, given).result()


def _watch(work: Callable[[Given], Result], given: Given) -> tuple[Result, float]:
    """Run `work` in this process while a thread samples the process's anonymous memory."""
    samples = [0.0]

    def sample(over: Event, _: int) -> None:
        while not over.wait(SAMPLE_EVERY_S):
            samples[0] = max(samples[0], anonymous_mb())

    with in_background(sample):
        result = work(given)
    return result, samples[0]


def anonymous_mb() -> float:
    """Return how much of this process's resident memory belongs to no file, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / MB
    raise OSError("/proc/self/status has no RssAnon: run this on Linux")
