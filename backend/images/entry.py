"""Describe an image in the index, and store its fields in the columns of a table."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Literal
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import pyarrow as pa

from backend.images.listing import ListedSplit, Listing

SplitName = Literal["pool", "validation", "test"]

LISTED_SPLITS: dict[ListedSplit, SplitName] = {
    "train": "pool",
    "": "pool",
    "validation": "validation",
    "test": "test",
}
# Precedes the percent-encoded bytes of a location that is not UTF-8 or begins with this prefix.
QUOTED = "quoted:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image in the pool."""

    image_id: str
    location: str  # for Source.open
    size: int  # bytes, -1 if unknown
    modified: str  # the mtime in ns or an ETag, "" if unknown
    content: str  # a hash of the file's content, "" until it is decoded
    split: SplitName
    label: str  # the known class, "" if unknown or if copies contradict each other
    left_out: str  # why the file cannot be used, "" if it can
    copy_of: str  # the id of the copy that counts, "" if this image counts
    is_changed: bool  # changed after decoding; the old pixels are used until it is decoded again
    is_removed: bool  # no longer listed by the source


COLUMN_TYPES = {"int": pa.int64(), "bool": pa.bool_()}
SCHEMA = pa.schema(
    (field.name, COLUMN_TYPES.get(str(field.type), pa.string())) for field in fields(Entry)
)


def as_table(listing: Listing, *, is_first: bool) -> pa.Table:
    """Convert a listing to rows of an index."""
    images = listing.images
    splits = [LISTED_SPLITS[image.split] for image in images]
    if not is_first:  # validation images are chosen only once
        splits = ["pool" if split == "validation" else split for split in splits]
    nothing = [""] * len(images)
    return pa.table(
        {
            "image_id": [image.image_id for image in images],
            "location": [quoted(image.location) for image in images],
            "size": [image.size for image in images],
            "modified": [image.modified for image in images],
            "content": nothing,
            "split": splits,
            "label": [image.label for image in images],
            "left_out": nothing,
            "copy_of": nothing,
            "is_changed": [False] * len(images),
            "is_removed": [False] * len(images),
        },
        schema=SCHEMA,
    )


def quoted(location: str) -> str:
    """Return a location as text that can be stored; paths may contain bytes that are not UTF-8."""
    try:
        location.encode()
    except UnicodeEncodeError:
        return QUOTED + quote_from_bytes(os.fsencode(location))
    return QUOTED + quote(location) if location.startswith(QUOTED) else location


def unquoted(stored: str) -> str:
    """Return the location that `quoted` encoded."""
    if not stored.startswith(QUOTED):
        return stored
    return os.fsdecode(unquote_to_bytes(stored.removeprefix(QUOTED)))
