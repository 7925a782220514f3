"""A driver to be killed: it embeds the digits, but is never allowed to read the later ones.

python -m tests.ray.gated_driver DATA_DIR FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from backend.images.framing import View
from backend.images.image_reader import find_reader
from backend.images.pool import open_pool
from backend.network import resnet
from backend.scale.embedding import embed
from backend.store.place import LocalPlace
from backend.store.row_store import RowStore
from tests.ray.gated_reader import GatedReader

if __name__ == "__main__":
    data_dir, folder = map(Path, sys.argv[1:])
    pool = open_pool("digits", data_dir, seed=0)
    reader = find_reader(pool, View(32), ())
    assert reader is not None
    state = resnet.build(10, None, seed=0).state_dict()
    embed(
        "",
        "cpu",
        RowStore(LocalPlace(folder / "rows"), np.float16, 512),
        {name: tensor.numpy() for name, tensor in state.items()},
        GatedReader(reader, folder / "gate"),
        32,
        {image_id: image_id for image_id in pool.image_ids},
        lambda _: None,
    )
