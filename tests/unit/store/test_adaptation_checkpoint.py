"""Save an unfinished adaptation; ignore a damaged or foreign checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.store import adaptation_checkpoint
from backend.store.adaptation_checkpoint import (
    CheckpointMeta,
    delete_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from backend.store.tensor_file import State, write_tensors

META = CheckpointMeta(fingerprint="images-1", spent_s=61.5, began_at=1_767_268_800.25)
STATE: State = {
    "body.conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "steps_done": np.array(255),
}


def path_in(root: Path) -> Path:
    return root / adaptation_checkpoint.FILE


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    root = tmp_path / "p7"
    save_checkpoint(root, {}, META)
    save_checkpoint(root, STATE, META)
    found = load_checkpoint(root, "images-1")
    assert found is not None
    state, meta = found
    assert meta == META
    assert state.keys() == STATE.keys()
    for name, array in STATE.items():
        assert (state[name].dtype, state[name].tolist()) == (array.dtype, array.tolist())
    assert [path.name for path in root.iterdir()] == ["adapting.safetensors"]


def test_a_missing_checkpoint_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    delete_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, "images-1") is None
    assert caplog.messages == []
    save_checkpoint(tmp_path, STATE, META)
    delete_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, "images-1") is None


def test_a_checkpoint_of_another_adaptation_is_ignored_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    save_checkpoint(tmp_path, STATE, META)
    assert load_checkpoint(tmp_path, "images-2") is None
    [line] = caplog.messages
    assert line.endswith("adapting.safetensors belongs to another adaptation and was ignored")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _without_metadata(path: Path) -> None:
    write_tensors(path, STATE)


def _with_a_negative_time(path: Path) -> None:
    content = META.model_dump_json().replace("61.5", "-1.0")
    write_tensors(path, STATE, {"checkpoint": content})


@pytest.mark.parametrize(
    "damage", [_cut, _flip_a_bit, _empty, _without_metadata, _with_a_negative_time]
)
def test_a_damaged_checkpoint_is_ignored_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    save_checkpoint(tmp_path, STATE, META)
    damage(path_in(tmp_path))
    assert load_checkpoint(tmp_path, "images-1") is None
    [line] = caplog.messages
    assert "adapting.safetensors is damaged and was ignored" in line
    save_checkpoint(tmp_path, STATE, META)
    assert load_checkpoint(tmp_path, "images-1") is not None
