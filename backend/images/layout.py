"""Derive the classes and splits of images from their paths: train/<class>/ and test/<class>/."""

from __future__ import annotations

from collections.abc import Container, Mapping

from backend.base.errors import ImageError
from backend.images.digest import digest
from backend.images.listing import Listed, ListedSplit, Listing, make_listing, name_fault


def list_by_path(
    files: Mapping[str, tuple[int, str]], left_out: Mapping[str, str], *, root: str = ""
) -> Listing:
    """Make a Listing of `files`, which maps paths below the source to size and modification time.

    If two or more folders train/<class>/ contain images, their names are the labels, and
    test/<class>/ contains test images; images elsewhere are unlabeled. Otherwise, all images are
    unlabeled. `root` precedes each path in its location.
    """
    folders = [path.split("/", 2) for path in files]
    named = {parts[1] for parts in folders if len(parts) == 3 and parts[0] == "train"}
    classes = {name for name in named if not name_fault(name)}
    classes = classes if len(classes) > 1 else set()
    images, faults = [], {}
    for path, (size, modified) in files.items():
        location = f"{root}{path}"
        try:
            split, label = _place(path, classes)
        except ImageError as error:
            faults[location] = str(error)
        else:
            images.append(Listed(digest(location), location, size, modified, split, label))
    return make_listing(images, {**left_out, **faults}, classes)


def _place(path: str, classes: Container[str]) -> tuple[ListedSplit, str]:
    """Return the split and the label of an image.

    Without `classes`, all images are unlabeled. Raises ImageError if the image must be left out.
    """
    parts = path.split("/", 2)
    if not classes or parts[0] not in ("train", "test"):
        return "", ""
    if len(parts) < 3:
        if parts[0] == "test":
            raise ImageError("a test image without a class: move it to test/<class>/")
        return "", ""
    if fault := name_fault(parts[1]):
        raise ImageError(f"the name of its class folder {fault}: rename the folder")
    if parts[1] not in classes:
        raise ImageError("train/ contains no images of its class")
    return ("train" if parts[0] == "train" else "test"), parts[1]
