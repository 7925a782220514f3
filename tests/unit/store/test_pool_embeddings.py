"""Embeddings of a pool are read back whole, for the same body, size and pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from backend.store import pool_embeddings


def test_embeddings_are_loaded_only_for_their_body_image_size_and_pool(tmp_path: Path) -> None:
    rows = [np.full((n, 2), n, np.float16) for n in (3, 2, 1)]
    pool_embeddings.save_embeddings(
        tmp_path, "k", 32, ("a", "b", "c"), pool_embeddings.PoolEmbeddings(*rows)
    )
    kept = pool_embeddings.load_embeddings(tmp_path, "k", 32, ("a", "b", "c"))
    assert kept is not None
    assert [kept.pool.tolist(), kept.validation.tolist(), kept.test.tolist()] == [
        row.tolist() for row in rows
    ]
    for key, size, ids in (("j", 32, "abc"), ("k", 64, "abc"), ("k", 32, "acb")):
        assert pool_embeddings.load_embeddings(tmp_path, key, size, tuple(ids)) is None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"pool": np.zeros((1, 4), np.float16)}, id="another pool"),
        pytest.param({"test": np.zeros((1, 5), np.float16)}, id="several widths"),
        pytest.param({"pool": np.full((2, 4), np.nan, np.float16)}, id="NaN"),
        pytest.param({"validation": np.zeros(4, np.float16)}, id="one axis"),
        pytest.param({"validation": np.zeros((1, 4), np.int64)}, id="whole numbers"),
    ],
)
def test_damaged_embeddings_are_treated_as_missing(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = {name: np.zeros((2, 4), np.float16) for name in ("pool", "validation", "test")}
    key = (tmp_path, "k", 32, ("a", "b"))
    pool_embeddings.save_embeddings(*key, pool_embeddings.PoolEmbeddings(**rows))
    assert pool_embeddings.load_embeddings(*key) is not None
    [path] = tmp_path.iterdir()
    path.write_bytes(safetensors.numpy.save(rows | changes))
    assert pool_embeddings.load_embeddings(*key) is None
    path.write_bytes(safetensors.numpy.save({"pool": rows["pool"]}))
    assert pool_embeddings.load_embeddings(*key) is None
