"""Keep one row of numbers per image in files, for pools that do not fit in memory.

    manifest.json      the type and width of the rows, and the shards that count
    <id>.parquet       a shard: image ids, and the numbers of each row as bytes; never changed

Any process may write shards, also on another machine. They count once the manifest names them, so a
reader sees all of them or none. Shards that a killed process left behind can be published later.
The store is a cache, so it may be deleted at any time.
"""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from backend.base.arrays import Rows, RowView
from backend.base.errors import ModelFolderError, RowsLostError
from backend.base.row_blocks import GROUP_ROWS, is_large
from backend.store.place import Place

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHARD_ROWS = 8192
SMALL_SHARDS = 16  # with so many shards that are less than half full, the small ones are merged
DAMAGED_MAX = 100  # files, before the disk is to blame
IDS_KEPT = 256  # shards whose image ids stay in memory, a quarter of a megabyte each

Number = TypeVar("Number", bound=np.floating[Any])


class Shard(BaseModel, frozen=True):
    """A file of rows."""

    name: str
    n_rows: int
    first_id: str  # of its images, the first in alphabetical order
    last_id: str


class Manifest(BaseModel, frozen=True):
    """The shards that count, in the order of their rows."""

    format: Literal[1] = 1
    dtype: str
    width: int
    shards: tuple[Shard, ...] = ()


class RowStore(Generic[Number]):
    """The rows of one kind for the images of one pool, in one folder."""

    def __init__(self, place: Place, dtype: type[Number], width: int) -> None:
        self.place, self.width = place, width
        self.dtype: np.dtype[Number] = np.dtype(dtype)

    def open(self) -> StoredRows[Number] | None:
        """Return the rows that the manifest names, or None if there are none that can be used."""
        manifest = self._read_manifest()
        return StoredRows(self, manifest.shards) if manifest.shards else None

    def complete(
        self, image_ids: Sequence[str], compute: Callable[[Sequence[str]], Sequence[Shard]]
    ) -> Rows[Number]:
        """Return the rows of these images, in memory unless they are too many.

        `compute` writes the rows that are missing and returns their shards. If it is interrupted,
        the next call publishes the shards that it has written. Rows in a damaged file are computed
        again.
        """
        for _ in range(DAMAGED_MAX):
            with suppress(RowsLostError):
                stored = self._complete(image_ids, compute)
                rows = stored.find(image_ids)
                return RowView(stored, rows) if is_large(rows) else stored[rows]
        raise ModelFolderError(f"{self.place.address} is damaged again and again: check its disk")

    def _complete(
        self, image_ids: Sequence[str], compute: Callable[[Sequence[str]], Sequence[Shard]]
    ) -> StoredRows[Number]:
        if missing := self.missing(image_ids):
            self.publish(self._left_behind())
            missing = self.missing(missing)
        if missing:
            self.publish(compute(missing))
        stored = self.open()
        assert stored is not None, "at least one image is wanted"
        return stored

    def missing(self, image_ids: Sequence[str]) -> Sequence[str]:
        """Return the images that have no row."""
        while (stored := self.open()) is not None:
            with suppress(RowsLostError):
                return [image_ids[at] for at in np.flatnonzero(stored.find(image_ids) < 0)]
        return image_ids

    def write(self, image_ids: Sequence[str], rows: NDArray[Number]) -> Shard:
        """Write a shard, which does not count yet. Raises ModelFolderError if it cannot."""
        ids = pa.array(image_ids, pa.string())
        schema = pa.schema({"image_id": pa.string(), "row": pa.binary(self._row_bytes)})
        schema = schema.with_metadata({"dtype": self.dtype.name, "width": str(self.width)})
        values = np.ascontiguousarray(rows, self.dtype).reshape(len(ids), self.width)
        column = pa.FixedSizeBinaryArray.from_buffers(
            schema.field("row").type, len(ids), [None, pa.py_buffer(values)]
        )
        file = pa.BufferOutputStream()
        pq.write_table(
            pa.table([ids, column], schema),
            file,
            row_group_size=GROUP_ROWS,
            compression="none",  # such numbers hardly shrink
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
        name = f"{uuid.uuid4().hex}.parquet"
        self.place.write(name, file.getvalue().to_pybytes())
        return _shard(name, ids)

    def publish(self, shards: Sequence[Shard]) -> None:
        """Make shards count, in addition to those that already do."""
        known = self._read_manifest().shards
        wanted = [*known, *(shard for shard in shards if shard not in known)]
        merged = self._merge(wanted)
        self._write_manifest(merged)
        for shard in wanted:
            if shard not in merged:  # a reader that needs it reads the new manifest
                self.place.delete(shard.name)

    def write_all(self, image_ids: Sequence[str], rows: NDArray[Number]) -> list[Shard]:
        """Write any number of rows; see `write`."""
        parts = (slice(at, at + SHARD_ROWS) for at in range(0, len(image_ids), SHARD_ROWS))
        return [self.write(image_ids[part], rows[part]) for part in parts]

    def drop(self, shard: Shard) -> None:
        """Remove a shard, so that its rows are computed again."""
        kept = [other for other in self._read_manifest().shards if other.name != shard.name]
        self._write_manifest(kept)
        self.place.delete(shard.name)

    def read_ids(self, shard: Shard) -> pa.Array:
        """Return the image ids of a shard."""
        return self._read_or_drop(shard, "image_id")

    def read_rows(self, shard: Shard, groups: Sequence[int] | None = None) -> NDArray[Number]:
        """Return the rows of a shard, or of some of its groups of GROUP_ROWS rows."""
        column = self._read_or_drop(shard, "row", groups)
        first = column.offset * self._row_bytes
        values = np.frombuffer(column.buffers()[1], self.dtype, offset=first)
        return values[: len(column) * self.width].reshape(-1, self.width)

    def _left_behind(self) -> list[Shard]:
        """Return the unpublished shards whose images are all missing from the published rows."""
        found: list[Shard] = []
        known = {shard.name for shard in self._read_manifest().shards}
        seen: set[str] = set()
        for name in self.place.names():
            if not name.endswith(".parquet") or name.startswith(".") or name in known:
                continue
            try:
                ids = self._read(name, "image_id")
            except (OSError, KeyError, pa.ArrowException):  # of another network, or deleted
                continue
            names = ids.to_pylist()
            if seen.isdisjoint(names) and len(self.missing(names)) == len(names):
                seen.update(names)
                found.append(_shard(name, ids))
        return found

    def _read_or_drop(
        self, shard: Shard, column: str, groups: Sequence[int] | None = None
    ) -> pa.Array:
        """Return a column; drop the shard and raise RowsLostError if the file is damaged."""
        try:
            return self._read(shard.name, column, groups)
        except (OSError, KeyError, pa.ArrowException) as error:
            address = f"{self.place.address}/{shard.name}"
            log.warning("%s is damaged and was ignored: %.300s", address, error)
            self.drop(shard)
            raise RowsLostError(f"{address} was damaged: its rows will be computed again") from None

    def _read(self, name: str, column: str, groups: Sequence[int] | None = None) -> pa.Array:
        with (
            self.place.open(name) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            if file.schema_arrow.field("row").type.byte_width != self._row_bytes:
                raise OSError("its rows have another width")
            wanted = range(file.num_row_groups) if groups is None else groups
            return file.read_row_groups(list(wanted), [column])[column].combine_chunks()

    def _read_manifest(self) -> Manifest:
        """Return the manifest, or one without shards if it cannot be used."""
        nothing = Manifest(dtype=self.dtype.name, width=self.width)
        address = f"{self.place.address}/{MANIFEST}"
        try:
            manifest = Manifest.model_validate_json(self.place.read(MANIFEST))
        except FileNotFoundError:
            return nothing
        except (ModelFolderError, ValidationError) as error:
            log.warning("%s is damaged and was ignored: %.300s", address, error)
            return nothing
        if (manifest.dtype, manifest.width) != (nothing.dtype, nothing.width):
            log.warning("%s describes rows of another network and was ignored", address)
            return nothing
        return manifest

    def _write_manifest(self, shards: Sequence[Shard]) -> None:
        manifest = Manifest(dtype=self.dtype.name, width=self.width, shards=tuple(shards))
        self.place.write(MANIFEST, manifest.model_dump_json(indent=1).encode())

    def _merge(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        """Merge small shards, because every search for an image looks into each of them."""
        small = [shard for shard in shards if 2 * shard.n_rows < SHARD_ROWS]
        if len(small) < SMALL_SHARDS:
            return shards
        ids = pa.concat_arrays([self.read_ids(shard) for shard in small])
        rows = np.concatenate([self.read_rows(shard) for shard in small])
        merged = self.write_all(ids.to_pylist(), rows)
        return [*(shard for shard in shards if shard not in small), *merged]

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize


class StoredRows(Generic[Number]):
    """The published rows, which are read in pieces. See `backend.base.arrays.Rows`.

    Reading raises RowsLostError if a file is damaged; its rows are then missing from the store.
    """

    def __init__(self, store: RowStore[Number], shards: Sequence[Shard]) -> None:
        self._store: RowStore[Number] = store
        self._shards = shards
        self._ends = np.cumsum([shard.n_rows for shard in shards])
        self._ids: OrderedDict[int, pa.Array] = OrderedDict()

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of rows, and their width."""
        return len(self), self._store.width

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[NDArray[Number]]:
        for shard in self._shards:
            yield from self._store.read_rows(shard)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Number]:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        found = np.empty((len(rows), self._store.width), self._store.dtype)
        order = np.argsort(rows, kind="stable")
        in_order = rows[order]
        is_sorted = bool((order[:-1] < order[1:]).all())
        cuts = np.searchsorted(in_order, [0, *self._ends])
        for number, (first, end) in enumerate(pairwise(cuts)):
            if first < end:
                values = self._read_of(number, in_order[first:end] - self._start(number))
                found[slice(first, end) if is_sorted else order[first:end]] = values
        return found

    def find(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each image, or -1; if an image has several rows, the last one."""
        rows = np.full(len(image_ids), -1, np.int64)
        wanted = pa.array(image_ids, pa.string())
        order = pc.sort_indices(wanted).to_numpy()
        in_order = wanted.take(order)
        names = np.array(image_ids, object)[order]
        for number, shard in enumerate(self._shards):
            first = int(np.searchsorted(names, shard.first_id, "left"))
            end = int(np.searchsorted(names, shard.last_id, "right"))
            if first < end:
                at = pc.index_in(in_order[first:end], value_set=self._ids_of(number))
                is_found = at.is_valid().to_numpy(zero_copy_only=False)
                found = at.drop_null().to_numpy().astype(np.int64) + self._start(number)
                rows[order[first:end][is_found]] = found
        return rows

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Return the image of each row."""
        ids = (self._ids_of(number).to_pylist() for number in range(len(self._shards)))
        return tuple(image_id for of_shard in ids for image_id in of_shard)

    def _start(self, number: int) -> int:
        return int(self._ends[number]) - self._shards[number].n_rows

    def _read_of(self, number: int, rows: NDArray[np.int64]) -> NDArray[Number]:
        """Return some rows of a shard, in ascending order."""
        shard = self._shards[number]
        groups = np.unique(rows // GROUP_ROWS)
        values = self._store.read_rows(shard, groups.tolist())
        at = np.searchsorted(groups, rows // GROUP_ROWS) * GROUP_ROWS + rows % GROUP_ROWS
        if (np.diff(at) == 1).all():  # without gaps, nothing need be copied
            return values[at[0] : at[-1] + 1]
        return values[at]

    def _ids_of(self, number: int) -> pa.Array:
        ids = self._ids.get(number)
        if ids is None:
            ids = self._ids[number] = self._store.read_ids(self._shards[number])
            if len(self._ids) > IDS_KEPT:  # another thread may do the same
                self._ids.popitem(last=False)
        return ids


def _shard(name: str, ids: pa.Array) -> Shard:
    lowest_highest = pc.min_max(ids).as_py() if len(ids) else {"min": "", "max": ""}
    return Shard(
        name=name, n_rows=len(ids), first_id=lowest_highest["min"], last_id=lowest_highest["max"]
    )
