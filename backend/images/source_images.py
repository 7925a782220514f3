"""List, decode and open a source's images for one project."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from backend.base.arrays import Images
from backend.base.errors import ImageError, PoolError
from backend.base.progress import Progress
from backend.images.digest import digest
from backend.images.entry import Entry
from backend.images.framing import View
from backend.images.image_side import measure_side
from backend.images.index import Index, Merged
from backend.images.index_file import draw_validation_sample, locked, update_index
from backend.images.labeled import LabeledFolder
from backend.images.listing import shown, summarize
from backend.images.pixels import Decoded, Original, PixelStore, stamp
from backend.images.sources import Source

log = logging.getLogger(__name__)

# For the first batch, this many images in the pool are decoded before the held-out images.
FIRST = 256
FIRST_OF_SAMPLE = 16  # images in the validation sample to decode together with them


@dataclass(frozen=True, eq=False, repr=False)
class SourceImages:
    """A source's images, with the index that one project keeps of them."""

    source: Source
    index: Index
    index_path: Path
    data_dir: Path
    image_size: int
    max_pixels: int
    labeled: LabeledFolder | None = None  # None in simulations, which lose no files
    n_unreadable: int = 0  # images that the last call to `decode` could not read
    fault: str = ""  # why the last call to `decode` could read no image, or ""

    @property
    def folder(self) -> Path:
        """Return the folder that caches this source's pixels, for all projects."""
        return source_folder(self.data_dir, self.source.name)

    @cached_property
    def store(self) -> PixelStore:
        """Return the store of pixels as the next version will see them."""
        return self._store(View(self.image_size))

    @cached_property
    def is_decoded(self) -> NDArray[np.bool_]:
        """Return a mask of the images in the index whose pixels are decoded."""
        is_held = (self.store.holds(image_id) for image_id in self.index.image_ids)
        return np.fromiter(is_held, dtype=np.bool_, count=len(self.index))

    @property
    def n_waiting(self) -> int:
        """Return the number of images still to decode, excluding currently unreadable images."""
        return int(self._is_due.sum()) - self.n_unreadable

    @property
    def removed_ids(self) -> frozenset[str]:
        """Return the images that the source no longer lists, excluding copies of other images."""
        is_first = self.index.table["copy_of"].to_numpy() == ""
        return frozenset(self.index.image_ids[self.index.table["is_removed"].to_numpy() & is_first])

    @cached_property
    def retired_ids(self) -> tuple[str, ...]:
        """Return the pool's labeled images that the source has lost."""
        return self._retired("pool")

    @cached_property
    def sample_ids(self) -> tuple[str, ...]:
        """Return the images in the validation sample, in labeling order.

        Labeled images that the source has lost are included if their pixels can be read.
        """
        sample = self.index.sample
        if sample is None:
            return ()
        lost = self._retired("validation")
        self._decode_lost(lost, self.store, lambda *_: None)
        found = [str(i) for i in self.index.image_ids[self.find("validation")]]
        return tuple(sample.order([*found, *filter(self.store.holds, lost)]))

    @property
    def n_held_out(self) -> int:
        """Return how many images are held out for validation, whether they are decoded or not."""
        return int((self._is_listed & (self.index.splits == "validation")).sum())

    def is_in_sample(self, image_id: str) -> bool:
        """Return whether an image, or the image that it copies, is in the validation sample.

        Raises PoolError for an unknown id.
        """
        [row] = self.index.rows([self.index.canonical(image_id)])
        return self.index.sample is not None and self.index.splits[row] == "validation"

    def draw_sample(self, seed: int, n_labels: int, exempt: Collection[str]) -> SourceImages:
        """Hold out a validation sample, leaving out images in `exempt`; see `Index.draw_sample`."""
        index = draw_validation_sample(self.index_path, seed, n_labels, exempt)
        return replace(self, index=index)

    def find(self, split: str) -> NDArray[np.int64]:
        """Return the index rows of the usable, decoded images in a split."""
        is_found = self.index.is_usable & self.is_decoded & (self.index.splits == split)
        return np.flatnonzero(is_found)

    def known_labels(self) -> dict[str, str]:
        """Return the label of each labeled image in the pool, whether it is decoded or not."""
        index = self.index
        is_known = self._is_listed & (index.splits == "pool") & (index.labels != "")
        return dict(zip(index.image_ids[is_known], index.labels[is_known], strict=True))

    def list_again(self, seed: int, progress: Progress) -> tuple[SourceImages, Merged]:
        """List the source and bring the index up to date; also return what has changed.

        Raises PoolError if the source is unavailable; in that case, the index is unchanged.
        """
        merged = update_index(self.source, self.index_path, self.data_dir, seed, progress)
        return replace(self, index=merged.index, n_unreadable=0, fault=""), merged

    def decode(
        self,
        progress: Progress,
        budget_s: float = math.inf,
        needed: Collection[str] = (),
        *,
        needs_held_out: bool = False,
    ) -> SourceImages:
        """Decode images for about `budget_s` seconds, and record the results in the index.

        The budget does not apply to images in `needed`, to the held-out images (with
        `needs_held_out`), or to a few images if none in the pool is decoded yet.
        """
        is_due = self._is_due | self._was_too_large
        is_needed = is_due & self.index.mask(needed)
        if needs_held_out:
            is_needed |= is_due & (self.index.splits != "pool")
        due = np.flatnonzero(is_due & ~is_needed)
        if budget_s <= 0 and len(self.find("pool")):
            due = due[:0]
        if not len(due) and not is_needed.any():
            return self
        found = self._decode(self.store, np.flatnonzero(is_needed), progress)
        due = due[np.argsort(self._turns(due), kind="stable")]
        found.add(self._decode(self.store, due, progress, time.monotonic() + budget_s))
        return self._record(found)

    def images_of(self, image_ids: Sequence[str], view: View, progress: Progress) -> Images:
        """Return these images, and decode any that are not yet decoded for this view.

        Labeled images that the source has lost are read from the labeled folder.
        """
        store = self.store if view == View(self.image_size) else self._store(view)
        missing = [image_id for image_id in image_ids if not store.holds(image_id)]
        if missing:
            rows = self.index.rows(missing)
            rows = rows[~self.index.table["is_removed"].to_numpy()[rows]]
            self._decode(store, rows, progress)
            self._decode_lost(missing, store, progress)
        try:
            return store.images(image_ids)
        except KeyError as error:
            raise PoolError(
                f"cannot read image {error} in {self.source.name}: restore its file"
            ) from None

    def measure_side(self) -> int:
        """Return the longest side of the first readable images, or 0 if none can be read."""
        return measure_side(self.source, self.index, self.max_pixels)

    def stored_size(self, view: View) -> tuple[int, int]:
        """Return the width and height in which images are decoded for a view."""
        return self._store(view).size

    def url(self, image_id: str) -> str | None:
        """Return the address at which a browser can open the image, or None."""
        [entry] = self.index.entries(self.index.rows([image_id]))
        return None if entry.is_removed else self.source.url(entry.location)

    def read(self, image_id: str) -> bytes:
        """Return the file of an image. Raises ImageError or OSError."""
        [entry] = self.index.entries(self.index.rows([image_id]))
        try:
            with self.source.open(entry.location) as file:
                return file.read()
        except (ImageError, OSError):
            if self.labeled and image_id in self.labeled.image_ids():
                with self.labeled.open(image_id) as file:
                    return file.read()
            raise

    def keep_labeled(self, image_ids: Sequence[str]) -> None:
        """Keep the pixels of labeled images permanently; log which images cannot be read.

        If an original is gone, the decoded pixels are kept instead.
        """
        if (labeled := self.labeled) is None:
            return
        kept, store = labeled.image_ids(), self.store
        lacking = [image_id for image_id in image_ids if image_id not in kept]
        faults: dict[str, str] = {}

        def keep(entry: Entry) -> None:
            try:
                with self.source.open(entry.location) as file:
                    labeled.keep(entry.image_id, file)
            except (ImageError, OSError) as error:
                if store.holds(entry.image_id):
                    labeled.keep(entry.image_id, self._decoded_file(entry.image_id))
                else:
                    faults[entry.location] = getattr(error, "strerror", None) or str(error)

        with ThreadPoolExecutor() as threads:
            list(threads.map(keep, self.index.entries(self.index.rows(lacking))))
        if faults:
            log.warning(
                "could not keep labeled images: %s", summarize(faults, len(lacking) - len(faults))
            )

    def _decoded_file(self, image_id: str) -> BinaryIO:
        """Return the decoded pixels of an image as a file."""
        file = BytesIO()
        Image.fromarray(self.store.images([image_id])[:][0]).save(file, "PNG")
        file.seek(0)
        return file

    @property
    def _is_listed(self) -> NDArray[np.bool_]:
        """Return a mask of the images that count or can count once they are decoded."""
        is_listed = ~self.index.table["is_removed"].to_numpy()
        for column in ("copy_of", "left_out"):
            is_listed &= self.index.table[column].to_numpy() == ""
        return is_listed

    def _retired(self, split: str) -> tuple[str, ...]:
        """Return the labeled images of a split that the source has lost."""
        kept = self.labeled.image_ids() if self.labeled else set()
        is_gone = self.index.table["is_removed"].to_numpy() & (self.index.splits == split)
        ids = self.index.image_ids[is_gone & (self.index.table["copy_of"].to_numpy() == "")]
        return tuple(image_id for image_id in ids if image_id in kept)

    def _turns(self, due: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return when to decode each of these rows, low = first.

        Part of the pool and a few images in the validation sample come first. Otherwise, the order
        is random, because an attached project's ids are in the order in which tasks were created.
        """
        is_pool = self.index.splits[due] == "pool"
        order = np.random.default_rng(0).permutation(len(due))
        turns = np.where(is_pool, 2.0, 1.0)
        turns[order[is_pool[order]][:FIRST]] = 0.0
        turns[order] += np.linspace(0.0, 1.0, len(due), endpoint=False)
        if sample := self.index.sample:
            held_out = due[self.index.splits[due] == "validation"]
            first = sample.order(self.index.image_ids[held_out])[:FIRST_OF_SAMPLE]
            turns[np.isin(due, self.index.rows(first))] = -1.0
        return turns

    def _decode_lost(self, image_ids: Sequence[str], store: PixelStore, progress: Progress) -> None:
        """Decode images from the labeled folder, except those that the store holds."""
        lost = [Original(i, i, "labeled") for i in image_ids if not store.holds(i)]
        if lost and self.labeled:
            store.decode(lost, self.labeled.open, progress)

    @cached_property
    def _is_due(self) -> NDArray[np.bool_]:
        return self.index.is_waiting | (self.index.is_usable & ~self.is_decoded)

    @property
    def _was_too_large(self) -> NDArray[np.bool_]:
        """Return a mask of images that exceeded MAX_IMAGE_PIXELS; the limit may be higher now."""
        reasons = pc.match_substring(self.index.table["left_out"], "MAX_IMAGE_PIXELS")
        return reasons.to_numpy() & ~self.index.table["is_removed"].to_numpy()

    def _store(self, view: View) -> PixelStore:
        folder = self.folder / f"{view.framing}-{view.side_px}"
        return PixelStore(folder, view, self.max_pixels)

    def _decode(
        self,
        store: PixelStore,
        rows: NDArray[np.int64],
        progress: Progress,
        until: float = math.inf,
    ) -> Decoded:
        """Decode the images in these rows of the index, in order."""
        source = self.source
        originals = [
            Original(entry.image_id, entry.location, stamp(entry.size, entry.modified))
            for entry in self.index.entries(rows)
        ]
        return store.decode(originals, source.open, progress, until, source.prefetch)

    def _record(self, found: Decoded) -> SourceImages:
        """Record content hashes and damaged files in the index."""
        locations = dict(zip(found.damaged, self._locations([*found.damaged]), strict=True))
        left_out = {locations[i]: reason for i, reason in found.damaged.items()}
        unreadable = self._locations([*found.unreadable])
        of_location = dict(zip(unreadable, found.unreadable.values(), strict=True))
        if left_out := left_out | of_location:
            log.warning(
                "pool %s: %s",
                self.source.name,
                summarize(left_out, len(self.index) - len(left_out)),
            )
        with locked(self.index_path):
            index = Index.read(self.index_path) or self.index
            index = index.record(found.contents, found.damaged)
            index.write(self.index_path)
        is_any_read = bool(found.contents or found.damaged)
        fault = ""
        if of_location and not is_any_read:
            location, reason = next(iter(of_location.items()))
            fault = f"{shown(location)}: {reason}"
        return replace(self, index=index, n_unreadable=len(unreadable), fault=fault)

    def _locations(self, image_ids: Sequence[str]) -> list[str]:
        return [entry.location for entry in self.index.entries(self.index.rows(image_ids))]


def source_folder(data_dir: Path, name: str) -> Path:
    """Return the folder that caches a source's images."""
    return data_dir / "pools" / digest(name)
