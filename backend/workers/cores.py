"""Share the machine's cores among compute processes, and leave one core for everything else."""

from __future__ import annotations

import os

import torch
from threadpoolctl import threadpool_limits


def share_cores(n_sharing: int = 1) -> None:
    """Limit this process to an equal share, among `n_sharing` processes, of all cores but one.

    Threads synchronize after every layer, and all wait for a thread whose core is busy. Alongside
    another busy process, two threads on two cores were five times slower than one thread, and two
    two-thread training runs at once were more than twenty times slower.
    """
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = ((n_cores or 1) - 1) // max(1, n_sharing)
    n_threads = max(1, min(share, torch.get_num_threads()))
    torch.set_num_threads(n_threads)
    threadpool_limits(n_threads)  # numpy's and scikit-learn's
