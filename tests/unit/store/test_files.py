"""Hold a lock in one process at a time."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest

from backend.base.errors import ModelFolderError
from backend.store.files import lock
from backend.store.project_record import project_root
from tests.patience import PATIENCE_S


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project_root(tmp_path, 7)


def _hold_until_killed(root: Path, is_held: object) -> None:
    with lock(root, "train"):
        is_held.set()  # type: ignore[attr-defined]
        signal.pause()


def test_a_lock_is_held_by_one_process_and_released_when_that_process_is_killed(root: Path) -> None:
    context = multiprocessing.get_context("spawn")
    is_held = context.Event()
    process = context.Process(target=_hold_until_killed, args=(root, is_held))
    process.start()
    try:
        assert is_held.wait(PATIENCE_S)
        with (
            pytest.raises(ModelFolderError, match="locked by another process"),
            lock(root, "train", wait_s=0.3),
        ):
            pytest.fail("two processes hold the lock")
        with lock(root, "push", wait_s=0.3):
            pass  # another lock
    finally:
        process.kill()
        process.join()
    with lock(root, "train", wait_s=PATIENCE_S):
        pass
