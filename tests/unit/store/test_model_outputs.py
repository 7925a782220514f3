"""Keep a version's scores and embeddings, and treat damaged or foreign files as missing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from backend.base.errors import NoModelError
from backend.images.framing import View
from backend.store import model_outputs
from backend.store.model_outputs import UNLABELED, SampleProbs
from backend.store.place import LocalPlace
from backend.store.project_record import begin_detaching, project_root, write_record
from tests.unit.store.test_registry import meta, record, save

PROBS = np.array([[0.1, 0.9], [0.6, 0.4]], np.float32)
LABELS = np.array([1, 0])
IDS = {"image_ids": '["a", "b"]'}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project with one version for cats and dogs."""
    root = project_root(tmp_path, 7)
    save(root, meta())
    return root


def file_of(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    return bytes(safetensors.numpy.save(tensors, metadata))


def header(text: str | bytes, n_bytes: int = 0) -> bytes:
    """Return a file with any header, and zeros for data."""
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content)) + content + bytes(n_bytes)


def typed(dtype: str, shape: str, n_bytes: int) -> bytes:
    tensor = f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{n_bytes}]}}'
    return header(f'{{"__metadata__":{json.dumps(IDS)},"probs":{tensor}}}', n_bytes)


NO_SAFETENSORS = {
    "an empty file": b"",
    "text": b"half a file",
    "half a file": file_of({"probs": PROBS}, IDS)[:-3],
    "a header of 4 EB": struct.pack("<Q", 2**62) + b"{}",
    "a header nested 100,000 deep": header(b'{"a":' * 100_000),
    "a header that is null": header("null"),
    "no tensor at all": header("{}"),
    "bfloat16": typed("BF16", "[2,2]", 8),
    "8-bit floats": typed("F8_E4M3", "[2,2]", 4),
    "a tensor of 2^80 numbers": typed("F32", f"[{2**40},{2**40}]", 16),
    "no number in 2^62 columns": typed("F32", f"[0,{2**62}]", 0),
    "a hundred axes": typed("F32", str([1] * 100), 4),
}


def test_the_pools_probabilities_are_loaded_with_their_ids(root: Path) -> None:
    assert model_outputs.load_pool_probs(root, "r0001") is None
    model_outputs.save_pool_probs(root, "r0001", ("a", "b"), PROBS)
    kept = model_outputs.load_pool_probs(root, "r0001")
    assert kept is not None
    assert kept.image_ids == ("a", "b")
    assert np.array_equal(kept[:], PROBS)


def test_probabilities_that_another_process_adds_are_seen(root: Path) -> None:
    model_outputs.save_pool_probs(root, "r0001", ("a", "b"), PROBS)
    before = model_outputs.load_pool_probs(root, "r0001")
    assert before is not None
    assert before.find(["c"]).tolist() == [-1]
    model_outputs.save_pool_probs(root, "r0001", ("c",), PROBS[1:])
    after = model_outputs.load_pool_probs(root, "r0001")
    assert after is not None
    assert np.array_equal(after[after.find(["c", "a"])], PROBS[::-1])


@pytest.mark.parametrize("content", NO_SAFETENSORS.values(), ids=NO_SAFETENSORS)
def test_files_without_scores_are_named_and_treated_as_missing(
    root: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "r0001/validation.safetensors").write_bytes(content)
    assert model_outputs.load_validation(root, "r0001") is None
    assert "r0001/validation.safetensors is damaged" in caplog.text


def test_a_folder_in_the_place_of_scores_is_treated_as_missing(root: Path) -> None:
    (root / "r0001/validation.safetensors").mkdir()
    (root / "r0001/pool/manifest.json").mkdir(parents=True)
    assert model_outputs.load_validation(root, "r0001") is None
    assert model_outputs.load_pool_probs(root, "r0001") is None


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_version_with_nan_probabilities_for_the_pool_is_named(root: Path, number: float) -> None:
    bad = PROBS.copy()
    bad[1, 0] = number
    with pytest.raises(NoModelError, match=r"r0001 contain NaN.*scripts\.models promote"):
        model_outputs.save_pool_probs(root, "r0001", ("a", "b"), bad)
    assert model_outputs.load_pool_probs(root, "r0001") is None


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param({"probs": PROBS}, id="no labels"),
        pytest.param({"labels": LABELS}, id="no probabilities"),
        pytest.param({"probs": PROBS, "labels": np.array([1])}, id="fewer labels than rows"),
        pytest.param({"probs": PROBS, "labels": np.array([0, 2])}, id="a label of no class"),
        pytest.param({"probs": PROBS, "labels": np.array([-1, 0])}, id="a negative label"),
        pytest.param({"probs": PROBS, "labels": LABELS.astype(np.float32)}, id="real labels"),
        pytest.param({"probs": PROBS * np.nan, "labels": LABELS}, id="NaN"),
        pytest.param({"probs": np.eye(3, dtype=np.float32)[:2], "labels": LABELS}, id="3 classes"),
    ],
)
def test_damaged_validation_probabilities_are_treated_as_missing(
    root: Path, tensors: dict[str, Any]
) -> None:
    model_outputs.save_validation_probs(root, "r0001", LABELS, PROBS)
    kept = model_outputs.load_validation_probs(root, "r0001", LABELS)
    assert kept is not None
    (root / "r0001/validation.safetensors").write_bytes(file_of(tensors))
    assert model_outputs.load_validation_probs(root, "r0001", LABELS) is None


def test_embeddings_of_another_body_view_or_pool_have_another_folder(tmp_path: Path) -> None:
    kept = ("k", View(32), "/photos")
    others = [
        ("j", View(32), "/photos"),
        ("k", View(64), "/photos"),
        ("k", View(32, "middle"), "/photos"),
        ("k", View(32), "/paintings"),
    ]
    folder = LocalPlace(tmp_path)
    stores = [model_outputs.embeddings_store(folder, *key, 2) for key in (kept, *others)]
    assert len({store.place.address for store in stores}) == 5


def test_with_a_store_embeddings_of_all_projects_are_below_it(tmp_path: Path) -> None:
    root, store = tmp_path / "models/p7", str(tmp_path / "shared")
    assert model_outputs.own_embeddings(root, "").address == f"{root}/embeddings"
    assert model_outputs.own_embeddings(root, store).address == f"{store}/p7/embeddings"
    assert model_outputs.shared_embeddings(tmp_path, "").address == f"{tmp_path}/embeddings"
    assert model_outputs.shared_embeddings(tmp_path, store).address == f"{store}/embeddings"


# The validation sample

SAMPLE = SampleProbs(("a", "b"), PROBS, np.array([1, UNLABELED]))


def test_the_samples_outputs_are_kept_with_the_labels_that_are_decided(root: Path) -> None:
    assert model_outputs.load_sample_probs(root, "r0001") is None
    model_outputs.save_sample_probs(root, "r0001", SAMPLE)
    kept = model_outputs.load_sample_probs(root, "r0001")
    assert kept is not None
    assert kept.image_ids == ("a", "b")
    assert np.array_equal(kept.probs, PROBS)
    assert kept.labels.tolist() == [1, -1]
    assert kept.is_labeled.tolist() == [True, False]


def test_the_sample_may_have_labels_of_classes_that_the_version_does_not_know(root: Path) -> None:
    write_record(root, record(7).model_copy(update={"classes": ("cat", "dog", "frog")}))
    sample = SampleProbs(SAMPLE.image_ids, PROBS, np.array([2, UNLABELED]))
    model_outputs.save_sample_probs(root, "r0001", sample)
    kept = model_outputs.load_sample_probs(root, "r0001")
    assert kept is not None
    assert kept.labels.tolist() == [2, -1]
    begin_detaching(root)  # a job that still runs reads the outputs
    assert model_outputs.load_sample_probs(root, "r0001") is not None


@pytest.mark.parametrize("labels", [[1], [2, 0], [-2, 0]], ids=str)
def test_impossible_labels_of_the_sample_are_treated_as_missing(
    root: Path, labels: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = SampleProbs(SAMPLE.image_ids, PROBS, np.array(labels))
    model_outputs.save_sample_probs(root, "r0001", damaged)
    assert model_outputs.load_sample_probs(root, "r0001") is None
    assert "r0001/sample.safetensors is damaged" in caplog.text
