"""Fingerprint the bodies of weights."""

from __future__ import annotations

import numpy as np

from backend.store.tensor_file import body_key
from tests.unit.store.test_registry import meta, state_of


def test_the_fingerprint_of_a_body_ignores_its_head() -> None:
    body = state_of(meta()) | {"conv1.weight": np.ones((2, 2), np.float32)}
    other_head = body | {"fc.weight": np.zeros((2, 2), np.float32)}
    other_body = body | {"conv1.weight": np.zeros((2, 2), np.float32)}
    assert body_key(body) == body_key(other_head)
    assert body_key(body) != body_key(other_body)
