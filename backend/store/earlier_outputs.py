"""Take over the embeddings and probabilities that earlier releases kept in a single file."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from backend.base.errors import ModelFolderError
from backend.store.row_store import RowStore
from backend.store.tensor_file import IMAGE_IDS, damage_logged, find_array, read_tensors

log = logging.getLogger(__name__)


def take_over_rows(store: RowStore[Any], path: Path, name: str) -> None:
    """Move the array `name` of a file to a store, unless there is no such file.

    A damaged file is deleted, because its rows can be computed again.
    """
    if not path.is_file():
        return
    with suppress(ModelFolderError):  # the folder is read-only, or its disk is full
        with damage_logged(path):
            metadata, arrays = read_tensors(path)
            image_ids = IMAGE_IDS.validate_json(metadata.get("image_ids", ""))
            rows = find_array(arrays, name, "f", 2)
            if rows.shape != (len(image_ids), store.width) or not np.isfinite(rows).all():
                raise ValueError(f"{len(image_ids)} image ids, but {name} {list(rows.shape)}")
            store.publish(store.write_all(image_ids, rows))
            log.info("moved %s to %s", path, store.place.address)
        path.unlink(missing_ok=True)
