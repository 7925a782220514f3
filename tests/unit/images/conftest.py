"""A pool folder of two classes, and its pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.images.pool import Pool, open_pool
from tests.unit.images.image_folders import (
    make_folder,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def pool(folder: Path, tmp_path: Path) -> Pool:
    return open_pool(str(folder), tmp_path, seed=0)
