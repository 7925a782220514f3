"""Test reading rows in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.base import row_blocks
from backend.base.arrays import Positions, RowView
from backend.base.row_blocks import blocks, take


class Recorded(RowView[np.int64]):
    """Rows 0, 1, 2, ... of a file, and what was read of them."""

    def __init__(self, count: int) -> None:
        super().__init__(np.arange(count)[:, None], np.arange(count))
        self.reads: list[list[int]] = []

    def __getitem__(self, rows: slice | Positions) -> NDArray[np.int64]:
        found = super().__getitem__(rows)
        self.reads.append(found[:, 0].tolist())
        return found


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 6)
    monkeypatch.setattr(row_blocks, "GROUP_ROWS", 2)


def test_blocks_cover_all_rows_once() -> None:
    assert [(block.start, block.stop) for block in blocks(range(14))] == [(0, 6), (6, 12), (12, 14)]
    assert not list(blocks(()))


def test_rows_are_taken_in_any_order_but_read_from_first_to_last() -> None:
    rows = Recorded(20)
    assert take(rows, np.array([19, 1, 13, 1, 8])).tolist() == [[19], [1], [13], [1], [8]]
    assert rows.reads == [[], [1, 1], [8], [13], [19]]


def test_a_block_is_read_whole_if_its_wanted_rows_lie_in_as_many_groups() -> None:
    rows = Recorded(20)
    taken = take(rows, np.array([5, 0, 2, 7, 9]))  # three groups of two rows make a block
    assert taken[:, 0].tolist() == [5, 0, 2, 7, 9]
    assert rows.reads == [[], [0, 1, 2, 3, 4, 5], [7, 9]]


def test_taking_no_rows_gives_an_empty_array_of_the_same_kind() -> None:
    taken = take(np.ones((3, 2), np.float16), np.empty(0, np.int64))
    assert taken.shape == (0, 2)
    assert taken.dtype == np.float16
