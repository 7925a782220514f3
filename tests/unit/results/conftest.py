"""Provide a project whose labels can be exported, and loops with an oracle instead of Label Studio.

The pool of a loop is the digits, as in the tests of rounds, or a folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.images.pool import open_pool, rescan
from backend.rounds.loop import Loop
from scripts.research.oracle import OracleProject
from tests.unit.images.image_folders import save_image
from tests.unit.results.exporter import Exporter, set_up
from tests.unit.rounds.conftest import attached, loop, pool, project, sampled

__all__ = ["attached", "loop", "pool", "project", "sampled"]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    """Provide a project of ten unlabeled images, 0.png to 9.png."""
    for i in range(10):
        save_image(tmp_path / f"pool/{i}.png", (i, 0, 0))
    return set_up(tmp_path)


@pytest.fixture
def folder_loop(loop: Loop, tmp_path: Path) -> Loop:
    """Return a loop over a folder: first.png and second.png are copies, removed.png is gone, and
    new.png and damaged.png are not decoded yet.
    """
    photos, classes = tmp_path / "photos", ("cat", "dog")
    for name, number in (("first", 1), ("second", 1), ("removed", 2), ("other", 3)):
        save_image(photos / f"{name}.png", (9, 9, number))
    index = tmp_path / "pool.parquet"
    found = open_pool(
        str(photos), tmp_path / "data", seed=0, index=index, classes=classes, image_size=16
    )
    (photos / "removed.png").unlink()
    save_image(photos / "new.png", (9, 9, 4))
    (photos / "damaged.png").write_bytes(b"no image")
    found, _ = rescan(found, 0, must_list=True, budget_s=0.0)
    return replace(loop, pool=found, choices=classes, project=OracleProject(classes))
