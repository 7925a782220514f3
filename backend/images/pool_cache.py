"""Keep the decoded images of a source on disk, so that they are decoded only once.

A cache folder contains
    train.npy, test.npy                  uint8 (images, height, width, 3); test may be empty
    train_labels.npy, test_labels.npy    int64 (images,), positions in the classes
    index.json                           ids of the train images; paths of a folder's originals
    meta.json                            classes, may_flip, and the files and folders left out
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

CACHE_FORMAT = 1


def open_cache(
    data_dir: Path, source: str, fingerprint: str, write: Callable[[Path], None]
) -> Path:
    """Return the cache folder of a source. If the folder does not exist, `write` fills it.

    No reader ever sees a partly filled folder, and only one process fills it at a time.
    """
    pools = data_dir / "pools"
    folder = pools / f"{source}-{fingerprint}-v{CACHE_FORMAT}"
    if folder.exists():
        return folder
    pools.mkdir(parents=True, exist_ok=True)
    with (pools / f"{source}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("pool: waiting for another process to fill %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        draft = pools / f"{source}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            write(draft)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        # A process that has mapped an outdated cache can still use its images.
        for outdated in set(pools.glob(f"{source}-*")) - {folder}:
            shutil.rmtree(outdated, ignore_errors=True)
    return folder


def find_cache(data_dir: Path, source: str) -> Path | None:
    """Return the cache folder of a source regardless of its fingerprint, or None."""
    kept = list((data_dir / "pools").glob(f"{source}-*-v{CACHE_FORMAT}"))
    return kept[0] if len(kept) == 1 else None


def write_split(draft: Path, split: str, images: NDArray[np.uint8], labels: Sequence[int]) -> None:
    """Write the images and labels of a split."""
    np.save(draft / f"{split}.npy", np.ascontiguousarray(images))
    write_labels(draft, split, labels)


def write_labels(draft: Path, split: str, labels: Sequence[int]) -> None:
    """Write the labels of a split, as positions in the classes."""
    np.save(draft / f"{split}_labels.npy", np.asarray(labels, dtype=np.int64))


def write_images(
    draft: Path,
    split: str,
    images: Iterable[NDArray[np.uint8] | None],
    shape: tuple[int, int, int, int],
) -> list[bool]:
    """Write the images of a split one by one, skipping any that are None.

    `shape` is the shape of the array if no image is skipped. Returns, for each image, whether it
    was written.
    """

    def write_header(n_rows: int) -> None:
        # numpy pads the header, so its length does not change with the first dimension.
        header = {"descr": "|u1", "fortran_order": False, "shape": (n_rows, *shape[1:])}
        np.lib.format.write_array_header_1_0(out, header)  # type: ignore[no-untyped-call]

    # With a writable memory map, a full disk would kill the process instead of raising OSError.
    with (draft / f"{split}.npy").open("wb") as out:
        write_header(shape[0])
        is_kept = [image is not None and bool(out.write(image.tobytes())) for image in images]
        out.seek(0)
        write_header(sum(is_kept))
    return is_kept


def write_meta(
    draft: Path,
    image_ids: Sequence[str],
    classes: Sequence[str],
    *,
    may_flip: bool,
    paths: Sequence[str] = (),
    skipped: Sequence[str] = (),
) -> None:
    """Write index.json and meta.json. `paths` match `image_ids`; `skipped` lists omitted files."""
    (draft / "index.json").write_text(json.dumps({"image_ids": image_ids, "paths": paths}))
    meta = {"classes": classes, "may_flip": may_flip, "skipped": skipped}
    (draft / "meta.json").write_text(json.dumps(meta, indent=1))
