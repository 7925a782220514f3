"""What a process and its children take of the machine."""

from __future__ import annotations

import time

import psutil

MB = 1024**2


def memory_mb(pid: int) -> float:
    """Return the memory that is theirs alone or shared among them; 0 if they have ended."""
    try:
        return sum(process.memory_full_info().pss for process in _tree(pid)) / MB
    except psutil.NoSuchProcess:
        return 0.0


def core_share(pid: int, seconds: float) -> float:
    """Return how much of one core they use over a while; 1.0 is all of it."""
    tree = _tree(pid)
    for process in tree:
        process.cpu_percent()  # counts from here
    time.sleep(seconds)
    return sum(process.cpu_percent() for process in tree) / 100


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
