"""Look up where a pool's images lie and which split they belong to, without reading pixels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.images.entry import SplitName
from backend.images.index import Index
from backend.images.pool import open_pool
from backend.images.splits import LabeledSplit
from backend.images.validation_sample import Validation


@dataclass(frozen=True, slots=True)
class CatalogImage:
    """An image in a pool."""

    image_id: str
    # As the index stores it (see `quoted`); "" for images of CIFAR-10 and the digits.
    location: str
    split: SplitName
    # As the source names it; "" if unknown, or if the source has lost the image or it is damaged
    known_label: str
    is_removed: bool  # the source does not list the image any more


@dataclass(frozen=True, eq=False, repr=False)
class Catalog:
    """All images that a pool has ever had, whether they are decoded or not.

    Every array has one item per image, in the same order. A copy of another image has its own
    item, but its annotations and its label count for the other image.
    """

    pool_name: str
    image_ids: Sequence[str]
    locations: Sequence[str]
    splits: NDArray[Any]
    known_labels: Sequence[str]
    is_removed: NDArray[np.bool_]
    copies: Mapping[str, str]  # id of a copy -> id of the image that counts
    has_sample: bool  # whether only annotators label the validation images

    @cached_property
    def known_ids(self) -> frozenset[str]:
        """Return the images that a model can be trained on."""
        return frozenset(self._in_split("pool"))

    def canonical(self, image_id: str) -> str:
        """Return the id of the image that counts: this image, or another with the same content."""
        return self.copies.get(image_id, image_id)

    def is_in_sample(self, image_id: str) -> bool:
        """Return whether only annotators label an image, or the image that it copies."""
        return self.has_sample and self.canonical(image_id) in self._validation_ids

    def find(self, image_id: str) -> CatalogImage | None:
        """Return an image, or None if the pool has never had it."""
        row = self._rows.get(image_id)
        return None if row is None else self._image(row)

    def held_out(self) -> Iterator[CatalogImage]:
        """Yield the validation and test images whose labels are known."""
        splits = ("test",) if self.has_sample else ("validation", "test")
        for row in np.flatnonzero(np.isin(self.splits.astype(str), splits)).tolist():
            if self.known_labels[row] and self.image_ids[row] not in self.copies:
                yield self._image(row)

    def with_images(self, locations: Mapping[str, str]) -> Catalog:
        """Return a catalog that also has these images of the pool, unless they are known."""
        new = {i: location for i, location in locations.items() if i not in self._rows}
        return Catalog(
            self.pool_name,
            [*self.image_ids, *new],
            [*self.locations, *new.values()],
            np.concatenate([self.splits, np.full(len(new), "pool", object)]),
            [*self.known_labels, *[""] * len(new)],
            np.concatenate([self.is_removed, np.zeros(len(new), np.bool_)]),
            self.copies,
            self.has_sample,
        )

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {image_id: row for row, image_id in enumerate(self.image_ids)}

    @cached_property
    def _validation_ids(self) -> frozenset[str]:
        return frozenset(self._in_split("validation"))

    def _in_split(self, split: SplitName) -> Iterator[str]:
        rows = np.flatnonzero(self.splits == split).tolist()
        return (self.image_ids[row] for row in rows if self.image_ids[row] not in self.copies)

    def _image(self, row: int) -> CatalogImage:
        return CatalogImage(
            self.image_ids[row],
            self.locations[row],
            self.splits[row],
            self.known_labels[row],
            bool(self.is_removed[row]),
        )


def open_catalog(
    name: str, data_dir: Path, index_path: Path, *, seed: int, validation: Validation
) -> Catalog:
    """List the images of the pool `name`: from its index, or from the arrays of a data set.

    Raises PoolError.
    """
    index = Index.read(index_path)
    return _of_data_set(name, data_dir, seed, validation) if index is None else _of_index(index)


def _of_index(index: Index) -> Catalog:
    ids = index.image_ids.tolist()
    copy_of = index.table["copy_of"].to_pylist()
    is_removed = index.table["is_removed"].to_numpy()
    is_usable = ~is_removed & (index.table["left_out"].to_numpy() == "")
    return Catalog(
        index.source,
        ids,
        index.table["location"].to_pylist(),
        index.splits,
        np.where(is_usable, index.labels, "").tolist(),
        is_removed,
        {i: first for i, first in zip(ids, copy_of, strict=True) if first},
        has_sample=index.sample is not None,
    )


def _of_data_set(name: str, data_dir: Path, seed: int, validation: Validation) -> Catalog:
    pool = open_pool(name, data_dir, seed=seed, validation=validation)

    def names(split: LabeledSplit) -> list[str]:
        return [pool.classes[label] for label in split.labels.tolist()]

    parts: Sequence[tuple[SplitName, Collection[str], Sequence[str]]] = (
        ("pool", pool.image_ids, [""] * len(pool.image_ids)),
        ("validation", pool.sample.image_ids, [""] * len(pool.sample.image_ids)),
        ("validation", pool.validation.image_ids, names(pool.validation)),
        ("test", pool.test.image_ids, names(pool.test)),
    )
    ids = [image_id for _, image_ids, _ in parts for image_id in image_ids]
    return Catalog(
        pool.name,
        ids,
        [""] * len(ids),
        np.array([split for split, image_ids, _ in parts for _ in image_ids], object),
        [label for _, _, labels in parts for label in labels],
        np.zeros(len(ids), np.bool_),
        {},
        has_sample=pool.validated_by == "people",
    )
