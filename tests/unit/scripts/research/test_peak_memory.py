"""Test the measurement of memory."""

from __future__ import annotations

import time

import numpy as np

from scripts.research.peak_memory import in_process

MB_OF_NUMBERS = 2**17  # float64


def hold(mb: int) -> int:
    """Hold memory long enough to be seen."""
    held = np.ones(mb * MB_OF_NUMBERS)
    time.sleep(0.2)
    return len(held)


def test_the_peak_of_a_process_contains_what_its_work_held() -> None:
    result, small_mb = in_process(hold, 1)
    assert result == MB_OF_NUMBERS
    _, large_mb = in_process(hold, 201)
    assert 190 < large_mb - small_mb < 210
