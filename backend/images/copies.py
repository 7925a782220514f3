"""Find images with the same content, and decide which image in each group counts."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# All copies of an image belong to one split: the first of these splits that contains any copy.
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
        """Return the sort key of this copy; the copy with the lowest key counts.

        Removed copies come last. Otherwise, copies are ordered by split (see SPLITS), then by
        whether they counted before, then by path.
        """
        return self.is_removed, SPLITS.index(self.split), not self.counts, self.location


def find_copies(table: pa.Table, counts: NDArray[np.bool_]) -> list[list[Copy]]:
    """Group images with the same content; in each group, the image that counts comes first.

    `counts` contains, for every row, whether the image counted until now.
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


def mark_copies(
    table: pa.Table, counts: NDArray[np.bool_], exempt: Set[str] = frozenset(), *, has_sample: bool
) -> pa.Table:
    """Return an index's table with `copy_of` filled in and the splits of copies unified.

    If there is a validation sample, `keep_in_pool` decides whether copies stay in the pool.
    """
    copy_of = np.full(table.num_rows, "", dtype=object)
    splits = table["split"].to_numpy().copy()
    for copies in find_copies(table, counts):
        first, *others = keep_in_pool(copies, exempt) if has_sample else copies
        copy_of[[copy.row for copy in others]] = first.image_id
        splits[first.row] = common_split([first, *others])
        if has_sample:  # also for copies that count later because the first one changes
            splits[[copy.row for copy in others]] = splits[first.row]
    for name, values in (("copy_of", copy_of), ("split", splits)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, pa.string()))
    return table


def keep_in_pool(copies: list[Copy], exempt: Set[str]) -> list[Copy]:
    """Keep copies in the pool if one copy counted there before any copy was in the sample.

    Otherwise, adding a copy later could move a training image into the sample. Copies of an image
    in `exempt` always stay in the pool.
    """
    counted = {copy.split for copy in copies if copy.counts}
    is_exempt = any(copy.image_id in exempt for copy in copies)
    if not is_exempt and ("pool" not in counted or "validation" in counted):
        return copies
    kept = (replace(c, split="pool") if c.split == "validation" else c for c in copies)
    return sorted(kept, key=lambda copy: copy.rank)


def common_split(copies: Sequence[Copy]) -> str:
    """Return the split that all copies share.

    If one copy is held out, no copy is ever queried or trained on.
    """
    return min((copy.split for copy in copies), key=SPLITS.index)


def common_label(copies: Sequence[Copy]) -> str | None:
    """Return the label that all copies share, "" if no label is known, or None if labels conflict.

    Removed copies are considered only if all copies are removed, because a file may have been moved
    to another class.
    """
    present = [copy for copy in copies if not copy.is_removed] or copies
    labels = {copy.label for copy in present} - {""}
    return None if len(labels) > 1 else next(iter(labels), "")
