"""Find images with the same content, and decide which of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# Copies belong to one split: the first of these that any of them is in.
SPLITS = ("validation", "test", "pool")


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several images with the same content."""

    row: int
    image_id: str
    location: str
    split: str
    label: str
    is_removed: bool
    counts: bool  # whether the image counted before

    @property
    def rank(self) -> tuple[bool, int, bool, str]:
        """Return the place among the copies.

        The first path counts, but an image that counted before stays, and a removed one comes last.
        """
        return self.is_removed, SPLITS.index(self.split), not self.counts, self.location


def find_copies(table: pa.Table, counts: NDArray[np.bool_]) -> list[list[Copy]]:
    """Group images of the same content, the one that counts first.

    `counts` says for every row whether it counted until now.
    """
    codes = table["content"].combine_chunks().dictionary_encode().indices.to_numpy()
    is_decoded = table["content"].to_numpy() != ""
    rows = np.flatnonzero(is_decoded & (np.bincount(codes)[codes] > 1))
    shared = table.take(rows)
    names = ("image_id", "location", "split", "label", "is_removed")
    columns = [rows.tolist(), *(shared[n].to_pylist() for n in names), counts[rows].tolist()]
    groups: dict[int, list[Copy]] = {}
    for code, *fields in zip(codes[rows].tolist(), *columns, strict=True):
        groups.setdefault(code, []).append(Copy(*fields))
    return [sorted(group, key=lambda copy: copy.rank) for group in groups.values()]


def mark_copies(table: pa.Table, counts: NDArray[np.bool_]) -> pa.Table:
    """Return an index's table with `copy_of` filled in, and the image that counts in its split."""
    copy_of = np.full(table.num_rows, "", dtype=object)
    splits = table["split"].to_numpy().copy()
    for first, *others in find_copies(table, counts):
        copy_of[[copy.row for copy in others]] = first.image_id
        splits[first.row] = common_split([first, *others])
    for name, values in (("copy_of", copy_of), ("split", splits)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, pa.string()))
    return table


def common_split(copies: Sequence[Copy]) -> str:
    """Return the split of copies: if one is held out, the image is never asked or trained on."""
    return min((copy.split for copy in copies), key=SPLITS.index)


def common_label(copies: Sequence[Copy]) -> str | None:
    """Return the label of copies: "" if none is known, None if labels contradict each other.

    Removed copies matter only if all are removed, because a file may be moved to another class.
    """
    present = [copy for copy in copies if not copy.is_removed] or copies
    labels = {copy.label for copy in present} - {""}
    return None if len(labels) > 1 else next(iter(labels), "")
