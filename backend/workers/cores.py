"""Share the machine's cores among compute processes, and leave one core for everything else."""

from __future__ import annotations

import os

import torch
from threadpoolctl import threadpool_limits


def share_cores(n_sharing: int = 1) -> None:
    """Limit this process to its share of the cores; `n_sharing` processes share all cores but one.

    Threads synchronize after every layer, so all threads wait for a thread whose core is busy. On
    two cores with another busy process, two threads were five times slower than one thread.
    Two simultaneous training runs with two threads each were more than twenty times slower.
    """
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = ((n_cores or 1) - 1) // max(1, n_sharing)
    n_threads = max(1, min(share, torch.get_num_threads()))
    torch.set_num_threads(n_threads)
    threadpool_limits(n_threads)  # for numpy and scikit-learn
