"""Read rows in blocks, because a large pool's embeddings do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Positions, Rows, RowView

Number = TypeVar("Number", bound=np.generic)

LARGE_POOL = 200_000  # images; from here on, embeddings are read in blocks
BLOCK_ROWS = 65_536  # 64 MB of embeddings
GROUP_ROWS = 1024  # reading one row from a file costs as much as reading this many


def is_large(rows: Sized) -> bool:
    """Return whether there are too many rows to have them all in memory."""
    return len(rows) >= LARGE_POOL


def part(rows: Rows[Number], chosen: slice) -> Rows[Number]:
    """Return some consecutive rows; if there are many, they are read only when they are used."""
    positions = np.arange(*chosen.indices(len(rows)))
    return RowView(rows, positions) if is_large(positions) else rows[chosen]


def blocks(rows: Sized) -> Iterator[slice]:
    """Yield the slices that read all rows, block by block."""
    for first in range(0, len(rows), BLOCK_ROWS):
        yield slice(first, min(first + BLOCK_ROWS, len(rows)))


def take(rows: Rows[Number], positions: Positions) -> NDArray[Number]:
    """Return the rows at these positions, in their order, but read them from first to last.

    A block is read whole if that costs no more than reading its wanted rows one by one.
    """
    order = np.argsort(positions, kind="stable")
    ascending = positions[order]
    parts = [rows[:0]]
    for block in blocks(rows):
        start, end = np.searchsorted(ascending, [block.start, block.stop])
        wanted = ascending[start:end]
        if len(wanted) * GROUP_ROWS >= BLOCK_ROWS:
            parts.append(rows[block][wanted - block.start])
        elif len(wanted):
            parts.append(rows[wanted])
    found = np.concatenate(parts)
    taken = np.empty_like(found)
    taken[order] = found
    return taken
