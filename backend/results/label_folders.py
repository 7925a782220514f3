"""Put labeled images into one folder per split and class, as links or copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from backend.base.errors import ImageError
from backend.base.progress import Progress
from backend.images.entry import unquoted
from backend.images.pool import Pool
from backend.images.source_images import SourceImages
from backend.images.task_image import png_image
from backend.results.label_rows import LabelRow

# The suffixes of copies, by Pillow's name for the format; every other format gets its own name.
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg"}
REPORT_EVERY = 100

Read = Callable[[], bytes]  # raises ImageError or OSError


def write_folders(
    folder: Path, rows: Sequence[LabelRow], pool: Pool, *, has_copies: bool, progress: Progress
) -> dict[str, str]:
    """Write `<split>/<class>/<image id>.<suffix>` below `folder` for each row.

    Without `has_copies`, an image whose file is on this machine becomes a link to the file; every
    other image becomes a copy. Returns a mapping from `LabelRow.image` to the reason, for each
    image that cannot be read.
    """
    missing: dict[str, str] = {}

    def write(found: tuple[LabelRow, Path | None, Read]) -> None:
        row, file, read = found
        target = folder / row.split / folder_name(row.label) / row.image_id
        if file is not None and not has_copies:
            target.with_name(row.image_id + file.suffix).symlink_to(file)
            return
        try:
            content = read()
            suffix = _suffix(content)
        except (ImageError, OSError) as error:
            missing[row.image] = getattr(error, "strerror", None) or str(error)
        else:
            target.with_name(row.image_id + suffix).write_bytes(content)

    for split, label in {(row.split, row.label) for row in rows}:
        (folder / split / folder_name(label)).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as threads:
        for done, _ in enumerate(threads.map(write, _originals(pool, rows)), 1):
            if done % REPORT_EVERY == 0:
                progress("copying images", done, len(rows))
    return dict(sorted(missing.items()))


def folder_name(label: str) -> str:
    """Return a class as a folder name, in which `/`, `%` and a leading dot are percent-encoded."""
    name = label.replace("%", "%25").replace("/", "%2F")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def _originals(
    pool: Pool, rows: Sequence[LabelRow]
) -> Iterator[tuple[LabelRow, Path | None, Read]]:
    """Yield each row with its image's local file, or None, and a function that reads the image."""
    if pool.source is not None:
        for row in rows:
            yield row, _local_file(pool.source, row), partial(pool.source.read, row.image_id)
        return
    by_split: dict[str, list[LabelRow]] = defaultdict(list)
    for row in rows:
        by_split[row.split].append(row)
    for of_split in by_split.values():
        images = pool.images_of([row.image_id for row in of_split])
        for position, row in enumerate(of_split):
            yield row, None, partial(_as_png, images[position : position + 1][0])


def _as_png(pixels: NDArray[np.uint8]) -> bytes:
    return png_image(Image.fromarray(pixels)).content


def _local_file(source: SourceImages, row: LabelRow) -> Path | None:
    """Return the file of an image in a folder, or in a list that refers to the file by its path."""
    if "://" in row.image or "://" in source.source.name:
        return None
    place = Path(source.source.name)
    file = (place if place.is_dir() else place.parent) / unquoted(row.image)
    return file if file.is_file() else None


def _suffix(content: bytes) -> str:
    """Return the suffix for an image file. Raises ImageError if the content is not an image."""
    try:
        with Image.open(BytesIO(content)) as image:  # reads only the header
            kind = image.format or ""
    except UnidentifiedImageError:
        raise ImageError("the file is not an image") from None
    return SUFFIXES.get(kind, f".{kind.lower()}")
