"""Decide at which numbers of labels a simulation trains a version, so that few rounds suffice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

# The loop queries 20 images at a time. Larger batches save time, but waste labels if a batch is
# large compared with the labels that the model has learned from.
GROWTH = 1.5


def training_points(budgets: Sequence[int], seed_labels: int = 0) -> tuple[int, ...]:
    """Return the numbers of labels at which to train a version, in ascending order.

    They include every budget and the seed labels. Each is at most GROWTH times the one before it,
    except for rounding.
    """
    known = (seed_labels,) if seed_labels else ()
    ends = [*known, *(budget for budget in budgets if budget > seed_labels)]
    points = ends[:1]
    for low, high in pairwise(ends):
        n_steps = max(1, math.ceil(math.log(high / low) / math.log(GROWTH) - 1e-9))
        points += [round(low * (high / low) ** (step / n_steps)) for step in range(1, n_steps + 1)]
    return tuple(dict.fromkeys(points))
