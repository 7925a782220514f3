"""Describe which images a source offers, and which of its files it leaves out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

ListedSplit = Literal["train", "validation", "test", ""]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
NOT_SUPPORTED = "not a supported format"
NAMED_MAX = 20
SHOWN_CHARS = 200
# JSON and XML must be able to contain class names. Python reads bytes that are not UTF-8 as lone
# surrogates.
UNUSABLE_NAMES = {
    "is not UTF-8": re.compile(r"[\ud800-\udfff]"),
    "contains a control character": re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One image that a source offers."""

    image_id: str  # a digest of the path below the folder, or of the URL
    location: str  # for Source.open: a path below the folder (or the list's folder), or a URL
    size: int = -1  # bytes, -1 if unknown
    modified: str = ""  # the mtime in ns or an ETag, "" if unknown; changes with the content
    # "train": has a label and may be queried; "": has no label and may be queried
    split: ListedSplit = ""
    label: str = ""  # the class as the source names it, "" if unknown


@dataclass(frozen=True, eq=False, repr=False)
class Listing:
    """All images that a source currently offers, in the order of their ids.

    The ids are digests, so the order reveals neither folders nor classes.
    """

    images: tuple[Listed, ...]
    left_out: Mapping[str, str]  # location -> reason; a whole folder counts as one location
    classes: tuple[str, ...]  # known labels of images that may be queried, sorted; may be ()


def make_listing(
    images: Iterable[Listed], left_out: Mapping[str, str], classes: Iterable[str]
) -> Listing:
    """Make a Listing of the images that a source found, sorted by id."""
    ordered = sorted(images, key=lambda image: image.image_id)
    return Listing(tuple(ordered), dict(left_out), tuple(sorted(classes)))


def name_fault(class_name: str) -> str:
    """Return the reason why a name cannot be a class, or "" if it can."""
    faults = (fault for fault, pattern in UNUSABLE_NAMES.items() if pattern.search(class_name))
    return next(faults, "")


def summarize(left_out: Mapping[str, str], n_images: int) -> str:
    """Summarize in one line which files were left out and why; return "" if none were.

    Files of unsupported formats are counted by suffix; all others are listed by reason. `n_images`
    is the number of files that were not left out.
    """
    if not left_out:
        return ""
    by_reason: dict[str, list[str]] = {}
    for location, reason in sorted(left_out.items()):
        by_reason.setdefault(reason, []).append(location)
    parts = []
    if others := by_reason.pop(NOT_SUPPORTED, []):
        suffixes = Counter(PurePath(other).suffix.lower() or "without a suffix" for other in others)
        counts = [f"{count:,} {suffix}" for suffix, count in suffixes.most_common(NAMED_MAX)]
        more = ", …" if len(suffixes) > NAMED_MAX else ""
        parts.append(f"{', '.join(counts)}{more} ({NOT_SUPPORTED})")
    for reason, locations in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        parts.append(f"{len(locations):,} ({reason}): {name_some(locations)}")
    more = "; …" if len(parts) > NAMED_MAX else ""
    n_files = n_images + len(left_out)
    return f"{len(left_out):,} of {n_files:,} files left out: {'; '.join(parts[:NAMED_MAX])}{more}"


def shown(location: str) -> str:
    """Return a printable form of a location, without the parts of a URL that may be secret."""
    if "://" in location:
        location = re.sub(r"://[^/]*@", "://…@", location.partition("?")[0])
    cut = f"… ({len(location):,} characters)" if len(location) > SHOWN_CHARS else ""
    return repr(location[:SHOWN_CHARS]) + cut


def name_some(locations: Sequence[str]) -> str:
    """List up to NAMED_MAX locations as text."""
    more = ", …" if len(locations) > NAMED_MAX else ""
    return ", ".join(shown(location) for location in locations[:NAMED_MAX]) + more
