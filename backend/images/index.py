"""Keep the index of a project's pool: the images, their locations and their splits."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from backend.base.errors import PoolError
from backend.images.copies import Copy, common_label, find_copies, mark_copies
from backend.images.entry import SCHEMA, Entry, as_table, unquoted
from backend.images.listing import Listing, name_some
from backend.images.validation_sample import ValidationSample, draw_sample

log = logging.getLogger(__name__)

# Format 2 has a validation sample. During an update, processes of the earlier release may still be
# running: they refuse this format instead of dropping the sample.
FORMAT, FORMAT_WITH_SAMPLE = "1", "2"


@dataclass(frozen=True)
class Merged:
    """The changes that a listing makes to an index."""

    index: Index
    added: tuple[str, ...]  # ids of new images, and of removed images that came back
    changed: tuple[str, ...]  # ids of images to decode again
    removed: tuple[str, ...]  # ids of images that the source no longer lists


@dataclass(frozen=True, eq=False, repr=False)
class Index:
    """All images that a source has ever listed, sorted by id. An index never changes.

    Every array has one item per image. All arrays use the same order, and a "row" is a position in
    that order.
    """

    source: str  # Source.name
    classes: tuple[str, ...]  # from the latest listing, sorted; () if none is known
    table: pa.Table  # a column for each field of Entry, with the source's labels
    sample: ValidationSample | None = None  # None = annotators label no validation images
    # Images that were exempt from the draw but not decoded yet, so that their copies were unknown.
    exempt: frozenset[str] = frozenset()

    @classmethod
    def empty(cls, source: str) -> Self:
        """Return an index without images, for a source that was never listed."""
        return cls(source, (), SCHEMA.empty_table())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read an index, or return None if none exists. Raises PoolError if it is damaged."""
        try:
            with pq.ParquetFile(path) as file:
                meta = file.schema_arrow.metadata or {}
                if (found := meta[b"format"].decode()) not in (FORMAT, FORMAT_WITH_SAMPLE):
                    raise PoolError(
                        f"the index {path} has format {found}, but this release reads {FORMAT} and "
                        f"{FORMAT_WITH_SAMPLE}: use the release that wrote the index"
                    )
                table = file.read(SCHEMA.names).cast(SCHEMA)
            sample = json.loads(meta.get(b"sample", b"null"))
            return cls(
                meta[b"source"].decode(),
                tuple(json.loads(meta[b"classes"])),
                table,
                ValidationSample(**sample) if sample else None,
                frozenset(json.loads(meta.get(b"exempt", b"[]"))),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise PoolError(
                f"the index {path} is damaged ({type(error).__name__}): restore it from a backup"
            ) from error

    def write(self, path: Path) -> None:
        """Replace the file atomically: readers see the old or the new index. Raises PoolError."""
        meta = {
            "format": FORMAT_WITH_SAMPLE if self.sample else FORMAT,
            "source": self.source,
            "classes": json.dumps(self.classes),
        }
        if self.sample:
            meta["sample"] = json.dumps(asdict(self.sample))
        if self.exempt:
            meta["exempt"] = json.dumps(sorted(self.exempt))
        draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                pq.write_table(self.table.replace_schema_metadata(meta), file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise PoolError(
                f"the index {path} cannot be written ({error.strerror}): check that its folder is "
                "writable and has space left"
            ) from error

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def image_ids(self) -> NDArray[Any]:
        """Return all ids, sorted."""
        return self._column("image_id")

    @cached_property
    def splits(self) -> NDArray[Any]:
        """Return the split of every image."""
        return self._column("split")

    @cached_property
    def labels(self) -> NDArray[Any]:
        """Return the known label of every image, which all its copies share.

        The label is "" if none is known, or if labels of copies contradict each other.
        """
        labels = self._column("label").copy()
        for copies in self._copies:
            labels[[copy.row for copy in copies]] = common_label(copies) or ""
        return labels

    @cached_property
    def is_waiting(self) -> NDArray[np.bool_]:
        """Return a mask of images to decode: new or changed, and neither removed nor left out."""
        is_due = ~self._is_decoded | self._column("is_changed")
        return is_due & (self._column("left_out") == "") & ~self._column("is_removed")

    @cached_property
    def is_usable(self) -> NDArray[np.bool_]:
        """Return a mask of the images that count: decoded, not removed, not copies of others."""
        return self._is_decoded & (self._column("copy_of") == "") & ~self._column("is_removed")

    def rows(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of these images. Raises PoolError for an unknown id."""
        wanted = np.array(image_ids, dtype=object)
        rows = np.searchsorted(self.image_ids, wanted)
        is_found = np.zeros(len(wanted), dtype=bool)
        inside = rows < len(self)
        is_found[inside] = self.image_ids[rows[inside]] == wanted[inside]
        if not is_found.all():
            raise PoolError(f"no image {wanted[~is_found][0]!r} in the index of {self.source}")
        return rows.astype(np.int64)

    def mask(self, image_ids: Collection[str]) -> NDArray[np.bool_]:
        """Return a mask of these images; unknown ids are ignored."""
        return _is_in(self.image_ids, image_ids)

    def entries(self, rows: NDArray[np.int64]) -> Iterator[Entry]:
        """Yield the entries in these rows one by one."""
        columns = {name: self.table[name].take(rows).to_pylist() for name in SCHEMA.names}
        columns["location"] = [unquoted(stored) for stored in columns["location"]]
        columns["label"] = self.labels[rows].tolist()
        yield from map(Entry, *columns.values())

    def canonical(self, image_id: str) -> str:
        """Return the id of the image that counts: this image, or another with the same content."""
        row = int(self.rows([image_id])[0])
        return str(self.table["copy_of"][row].as_py() or image_id)

    def merge(self, listing: Listing) -> Merged:
        """Update the index from a new listing of the source.

        Known images keep their split. New images join the validation sample if the draw chooses
        them, the test split if the listing assigns them to it, and otherwise the pool. The split
        "validation" is used only in the first listing. Missing images are marked as removed until
        they are listed again. Raises PoolError if the listing is empty.
        """
        if not listing.images:
            raise PoolError(
                f"{self.source} no longer contains images: is the disk mounted? Nothing was changed"
            )
        listed = as_table(listing, is_first=not len(self))
        all_ids = pc.unique(pa.concat_tables([self.table, listed])["image_id"])
        ids = all_ids.take(pc.sort_indices(all_ids))
        before = self.table.take(pc.index_in(ids, value_set=_whole(self.table["image_id"])))
        now = listed.take(pc.index_in(ids, value_set=_whole(listed["image_id"])))
        is_new = pc.is_null(before["image_id"]).to_numpy()
        is_removed = pc.is_null(now["image_id"]).to_numpy()
        was_removed = _flags(before["is_removed"])
        is_changed = _differ(before["size"], now["size"], -1)
        is_changed |= _differ(before["modified"], now["modified"], "")
        table = {name: pc.coalesce(before[name], now[name]) for name in SCHEMA.names}
        for name in ("location", "size", "modified", "label"):
            table[name] = pc.coalesce(now[name], before[name])
        table["left_out"] = pc.if_else(is_changed, "", table["left_out"])
        is_decoded = pc.not_equal(table["content"], "").to_numpy()
        table["is_changed"] = (_flags(before["is_changed"]) | is_changed) & is_decoded
        table["is_removed"] = is_removed
        table["split"] = self._with_sampled(table["split"], ids, is_new)
        merged = pa.table(table, schema=SCHEMA)
        index = replace(self, classes=listing.classes)._with(merged, np.ones(len(ids), dtype=bool))
        return Merged(
            index,
            added=tuple(index.image_ids[is_new | (was_removed & ~is_removed)]),
            changed=tuple(index.image_ids[is_changed]),
            removed=tuple(index.image_ids[is_removed & ~was_removed]),
        )

    def hold_out(self, image_ids: Sequence[str]) -> Index:
        """Move images from the pool to the validation split; call once, after the first listing."""
        splits = self.splits.copy()
        splits[self.rows(image_ids)] = "validation"
        return self._with(self._replace(split=splits), np.ones(len(self), dtype=bool))

    def draw_sample(self, seed: int, n_labels: int, exempt: Collection[str] = ()) -> Index:
        """Draw the validation sample, which replaces any other validation split.

        Images in `exempt` and their copies, test images, and images that cannot be used keep their
        split.
        """
        splits = self.splits.copy()
        splits[splits == "validation"] = "pool"
        copy_of = self._column("copy_of")
        firsts = np.where(copy_of == "", self.image_ids, copy_of)
        is_exempt = _is_in(firsts, firsts[self.mask(exempt)])
        is_usable = (self._column("left_out") == "") & ~self._column("is_removed")
        rows = np.flatnonzero((splits == "pool") & is_usable & (copy_of == "") & ~is_exempt)
        sample = draw_sample(self.image_ids[rows].tolist(), seed, n_labels)
        if sample:
            is_drawn = [sample.contains(image_id) for image_id in self.image_ids[rows]]
            splits[rows[is_drawn]] = "validation"
        undecoded = self.image_ids[is_exempt & ~self._is_decoded]
        drawn = replace(self, sample=sample, exempt=frozenset(map(str, undecoded)))
        return drawn._with(drawn._replace(split=splits), np.ones(len(self), dtype=bool))

    def record(self, contents: Mapping[str, str], left_out: Mapping[str, str]) -> Index:
        """Record, by image id, the hashes of decoded images and why other images cannot be used.

        This also finds copies: among images with the same content, the image with the first path
        counts, unless another copy counted before. If one copy is held out, all copies are. Leave
        out only files that are known to be unusable; an image that failed because of a network
        error should keep waiting.
        """
        content, reason = self._column("content").copy(), self._column("left_out").copy()
        is_changed = self._column("is_changed").copy()
        rows, bad = self.rows(list(contents)), self.rows(list(left_out))
        content[rows], reason[rows] = list(contents.values()), ""
        content[bad], reason[bad] = "", list(left_out.values())
        is_changed[rows] = is_changed[bad] = False
        table = self._replace(content=content, left_out=reason, is_changed=is_changed)
        return self._with(table, content == self._column("content"))

    @cached_property
    def contradictions(self) -> frozenset[tuple[str, ...]]:
        """Return the locations of images with the same content but different known labels."""
        return frozenset(
            tuple(unquoted(copy.location) for copy in copies)
            for copies in self._copies
            if common_label(copies) is None
        )

    @cached_property
    def _copies(self) -> list[list[Copy]]:
        return find_copies(self.table, self._column("copy_of") == "")

    @cached_property
    def _is_decoded(self) -> NDArray[np.bool_]:
        return self._column("content") != ""

    def _column(self, name: str) -> NDArray[Any]:
        return self.table[name].to_numpy()

    def _replace(self, **columns: NDArray[Any]) -> pa.Table:
        return pa.table({**{n: self.table[n] for n in SCHEMA.names}, **columns}, schema=SCHEMA)

    def _with_sampled(
        self, splits: pa.Array, image_ids: pa.Array, is_new: NDArray[np.bool_]
    ) -> pa.Array:
        """Return the splits, with those new images of the pool that the draw chooses held out."""
        if self.sample is None:
            return splits
        rows = np.flatnonzero(is_new & pc.equal(splits, "pool").to_numpy(zero_copy_only=False))
        is_drawn = [self.sample.contains(i) for i in image_ids.take(rows).to_pylist()]
        changed = splits.to_numpy(zero_copy_only=False).copy()
        changed[rows[is_drawn]] = "validation"
        return pa.array(changed, pa.string())

    def _with(self, table: pa.Table, is_same: NDArray[np.bool_]) -> Index:
        """Return an index with this table, in which copies are marked.

        `is_same` marks the rows whose content has not changed.
        """
        is_decoded = table["content"].to_numpy() != ""
        counts = is_same & is_decoded & (table["copy_of"].to_numpy() == "")
        has_sample = self.sample is not None
        marked = mark_copies(table, counts, self.exempt, has_sample=has_sample)
        index = replace(self, table=marked)
        for locations in sorted(index.contradictions - self.contradictions):
            log.warning(
                "pool %s: copies of one image have different labels, so they count as unlabeled: "
                "%s",
                self.source,
                name_some(locations),
            )
        return index


def _is_in(ids: NDArray[Any], chosen: Collection[str]) -> NDArray[np.bool_]:
    """Return a mask of the chosen ids; np.isin would take minutes for 100,000 of them."""
    found = pc.is_in(pa.array(ids, pa.string()), pa.array([*chosen], pa.string()))
    return found.to_numpy(zero_copy_only=False)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _flags(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return column.fill_null(False).to_numpy()


def _differ(before: pa.ChunkedArray, now: pa.ChunkedArray, unknown: int | str) -> NDArray[np.bool_]:
    """Return a mask of the rows in which both values are known and differ."""
    is_known = pc.and_(pc.not_equal(before, unknown), pc.not_equal(now, unknown))
    return _flags(pc.and_(pc.not_equal(before, now), is_known))
