"""Measure how fast people label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

BREAK_S = 300.0  # a longer time without any annotation is a break
MEASURED_S = 86_400.0  # how much time before the latest annotation counts
MIN_ANNOTATIONS = 10


def annotations_per_hour(times_s: Sequence[float]) -> float | None:
    """Return how many annotations all people together make per hour of work.

    `times_s` contains the times of annotations in seconds, in order. Only the last day before the
    latest annotation counts, without its breaks. Returns None if there are too few annotations.
    """
    latest = [at for at in times_s if at >= times_s[-1] - MEASURED_S]
    gaps = [later - earlier for earlier, later in pairwise(latest)]
    worked = [gap for gap in gaps if gap <= BREAK_S]
    if len(worked) < MIN_ANNOTATIONS or not sum(worked):
        return None
    return 3600 * len(worked) / sum(worked)
