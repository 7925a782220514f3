"""SCALE=ray where Ray is not installed."""

from __future__ import annotations

import sys

import pytest

from backend.base.errors import ScaleError
from backend.scale.cluster import connected


def test_the_message_says_how_to_install_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ScaleError, match=r"Ray is not installed in .*: run `make \.venv-ray/\.inst"),
        connected(""),
    ):
        pass
