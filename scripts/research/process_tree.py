"""Measure the memory and CPU time of a process and its children."""

from __future__ import annotations

import time

import psutil

MB = 1024**2


def memory_mb(pid: int) -> float:
    """Return the PSS of a process and its children together, in MB; 0 if they have ended."""
    try:
        return sum(process.memory_full_info().pss for process in _tree(pid)) / MB
    except psutil.NoSuchProcess:
        return 0.0


def core_share(pid: int, seconds: float) -> float:
    """Return the share of one core that a process and its children use; 1.0 is a whole core."""
    tree = _tree(pid)
    for process in tree:
        process.cpu_percent()  # counts from here
    time.sleep(seconds)
    return sum(process.cpu_percent() for process in tree) / 100


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
