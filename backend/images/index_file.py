"""Keep the index of a project's pool in a file that only one process changes at a time."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from backend.base.errors import PoolError
from backend.base.progress import Progress
from backend.images.index import Index, Merged
from backend.images.known_validation import choose_validation
from backend.images.listing import summarize
from backend.images.sources import MissingSource, Source, find_source
from backend.images.validation_sample import KNOWN, Validation

log = logging.getLogger(__name__)


def find_indexed_source(name: str, image_hosts: Sequence[str], index: Path | None) -> Source:
    """Find a source; return a MissingSource if it is gone but the project has listed it before."""
    try:
        return find_source(name, image_hosts=image_hosts)
    except PoolError as error:
        listed = Index.read(index) if index else None
        if listed is None:
            raise
        return MissingSource(listed.source, str(error))


def update_index(
    source: Source,
    path: Path,
    data_dir: Path,
    seed: int,
    progress: Progress,
    validation: Validation = KNOWN,
) -> Merged:
    """List the source and update the index at `path`; hold out images if the index is new.

    Raises PoolError if the source cannot be listed, or if the index belongs to another source.
    """
    listing = source.list(progress)
    with locked(path):
        before = Index.read(path) or Index.empty(source.name)
        if before.source != source.name:  # moved, or another list of the same images
            if not before.mask([image.image_id for image in listing.images]).any():
                raise PoolError(
                    f"the index {path} lists images in {before.source}, but none in "
                    f"{source.name}: set a new PROJECT_TITLE to label other images"
                )
            before = replace(before, source=source.name)
        merged = before.merge(listing)
        index = merged.index
        if not len(before) and validation.by == "people":
            index = index.draw_sample(seed, validation.n_labels, validation.exempt)
        elif not len(before):
            index = index.hold_out(choose_validation(index, listing, data_dir, seed))
        if not index.table.equals(before.table) or index.classes != before.classes:
            index.write(path)
    if listing.left_out and (merged.added or merged.changed):
        log.warning("pool %s: %s", source.name, summarize(listing.left_out, len(listing.images)))
    return replace(merged, index=index)


def draw_validation_sample(path: Path, seed: int, n_labels: int, exempt: Collection[str]) -> Index:
    """Hold out a validation sample in an index that has none; see `Index.draw_sample`."""
    with locked(path):
        index = Index.read(path)
        if index is None:
            raise PoolError(f"the index {path} is missing: restore it from a backup")
        if index.sample is None:
            index = index.draw_sample(seed, n_labels, exempt)
            index.write(path)
        return index


@contextmanager
def locked(index_path: Path) -> Iterator[None]:
    """Keep other processes from changing the index; wait if another process is changing it."""
    index_path.parent.mkdir(parents=True, exist_ok=True)
    with index_path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
