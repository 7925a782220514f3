"""Provide a project whose labels can be exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.images.image_folders import save_image
from tests.unit.results.exporter import Exporter, set_up


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    """Provide a project of ten unlabeled images, 0.png to 9.png."""
    for i in range(10):
        save_image(tmp_path / f"pool/{i}.png", (i, 0, 0))
    return set_up(tmp_path)
