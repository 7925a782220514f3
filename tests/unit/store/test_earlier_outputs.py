"""Take over the single files in which earlier releases kept embeddings and probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from backend.images.framing import View
from backend.store import model_outputs
from backend.store.place import LocalPlace
from backend.store.project_record import project_root
from backend.store.row_store import RowStore
from tests.unit.store.test_registry import meta, save

PROBS = np.array([[0.1, 0.9], [0.6, 0.4]], np.float32)
IDS = {"image_ids": '["a", "b"]'}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project with one version for cats and dogs."""
    root = project_root(tmp_path, 7)
    save(root, meta())
    return root


def file_of(array: Any, metadata: dict[str, str] | None, name: str = "probs") -> bytes:
    return bytes(safetensors.numpy.save({name: array}, metadata))


def test_an_earlier_releases_probabilities_are_moved(root: Path) -> None:
    path = root / "r0001/pool.safetensors"
    path.write_bytes(file_of(PROBS, IDS))
    kept = model_outputs.load_pool_probs(root, "r0001")
    assert kept is not None
    assert kept.image_ids == ("a", "b")
    assert np.array_equal(kept[:], PROBS)
    assert not path.exists()


def test_an_earlier_releases_embeddings_are_moved(tmp_path: Path) -> None:
    def store() -> RowStore[np.float16]:
        folder = LocalPlace(tmp_path)
        return model_outputs.embeddings_store(folder, "k", View(32), "/photos", 3)

    path = Path(f"{store().place.address}.safetensors")
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    path.write_bytes(file_of(rows, IDS, "embeddings"))
    kept = store().open()
    assert kept is not None
    assert kept[kept.find(["b", "a"])].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert not path.exists()


@pytest.mark.parametrize(
    ("probs", "metadata"),
    [
        pytest.param(PROBS, None, id="no metadata"),
        pytest.param(PROBS, {"ids": "[]"}, id="no image ids"),
        pytest.param(PROBS, {"image_ids": "[" * 100_000}, id="ids nested 100,000 deep"),
        pytest.param(PROBS, {"image_ids": '["a", 5]'}, id="a number for an id"),
        pytest.param(PROBS, {"image_ids": '["a"]'}, id="fewer ids than rows"),
        pytest.param(PROBS[:, :1], IDS, id="fewer columns than classes"),
        pytest.param(PROBS[0], IDS, id="one axis"),
        pytest.param(PROBS.astype(np.int64), IDS, id="whole numbers"),
        pytest.param(PROBS * np.nan, IDS, id="NaN"),
    ],
)
def test_a_damaged_file_of_an_earlier_release_is_named_and_deleted(
    root: Path,
    probs: np.ndarray[Any, Any],
    metadata: dict[str, str] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = root / "r0001/pool.safetensors"
    path.write_bytes(file_of(probs, metadata))
    assert model_outputs.load_pool_probs(root, "r0001") is None
    assert "r0001/pool.safetensors is damaged" in caplog.text
    assert not path.exists()
