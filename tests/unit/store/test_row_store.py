"""Keep rows in shards: found by image, published at once, resumed, merged, and healed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.base import row_blocks
from backend.base.arrays import RowView
from backend.base.errors import ModelFolderError, RowsLostError
from backend.store import row_store
from backend.store.place import LocalPlace
from backend.store.row_store import RowStore, Shard


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowStore[np.float16]:
    """Return a store of rows of two numbers, with shards of eight rows in groups of four."""
    monkeypatch.setattr(row_store, "SHARD_ROWS", 8)
    monkeypatch.setattr(row_store, "GROUP_ROWS", 4)
    return RowStore(LocalPlace(tmp_path / "rows"), np.float16, 2)


def ids(first: int, end: int) -> list[str]:
    return [f"{number:03d}" for number in range(first, end)]


def rows_of(image_ids: Sequence[str]) -> NDArray[np.float16]:
    """Return the row of each image: its number, and the same negative."""
    return np.array([[int(i), -int(i)] for i in image_ids], np.float16)


def add(store: RowStore[np.float16], image_ids: Sequence[str]) -> list[Shard]:
    shards = store.write_all(image_ids, rows_of(image_ids))
    store.publish(shards)
    return shards


def files(store: RowStore[np.float16]) -> set[str]:
    return {name for name in store.place.names() if name.endswith(".parquet")}


def test_rows_are_found_by_image_wherever_they_are(store: RowStore[np.float16]) -> None:
    assert store.open() is None
    add(store, ids(10, 30))
    add(store, ids(0, 5))
    stored = store.open()
    assert stored is not None
    assert (len(stored), stored.shape) == (25, (25, 2))
    assert stored.image_ids == (*ids(10, 30), *ids(0, 5))
    wanted = ["029", "999", "000", "017", "018", "004", ""]
    found = stored.find(wanted)
    assert found.tolist() == [19, -1, 20, 7, 8, 24, -1]
    assert (
        stored[found[found >= 0]].tolist() == rows_of(["029", "000", "017", "018", "004"]).tolist()
    )
    assert stored.find([]).tolist() == []


def test_any_selection_of_rows_is_that_of_an_array(store: RowStore[np.float16]) -> None:
    add(store, ids(0, 30))
    stored, whole = store.open(), rows_of(ids(0, 30))
    assert stored is not None
    for selection in (slice(None), slice(3, 21), slice(20, 3, -2), slice(5, 5), slice(25, 99)):
        assert np.array_equal(stored[selection], whole[selection])
    rng = np.random.default_rng(0)
    for rows in ([], [0, 0, 2], [29, 0, 8, 7, 8], rng.integers(30, size=50).tolist()):
        at = np.array(rows, np.int64)
        assert np.array_equal(stored[at], whole[at])
    assert np.array_equal([*stored], whole)


def test_only_the_groups_that_are_needed_are_read(
    store: RowStore[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, ids(0, 30))
    read: list[tuple[str, tuple[int, ...]]] = []
    read_rows = RowStore.read_rows

    def record(
        self: RowStore[np.float16], shard: Shard, groups: Sequence[int] = ()
    ) -> NDArray[np.float16]:
        read.append((shard.first_id, tuple(groups)))
        return read_rows(self, shard, groups)

    monkeypatch.setattr(RowStore, "read_rows", record)
    stored = store.open()
    assert stored is not None
    assert stored[stored.find(["013", "029"])].tolist() == [[13, -13], [29, -29]]
    assert read == [("008", (1,)), ("024", (1,))]


def test_of_several_rows_of_an_image_the_last_one_counts(store: RowStore[np.float16]) -> None:
    add(store, ids(0, 10))
    store.publish([store.write(["003"], np.array([[7, 7]], np.float16))])
    stored = store.open()
    assert stored is not None
    assert stored[stored.find(["003"])].tolist() == [[7, 7]]


def test_shards_count_only_once_they_are_published(store: RowStore[np.float16]) -> None:
    add(store, ids(0, 8))
    new = store.write_all(ids(8, 24), rows_of(ids(8, 24)))
    before = store.open()
    assert before is not None
    assert len(before) == 8
    store.publish(new)
    store.publish(new)  # a repeated call changes nothing
    after = store.open()
    assert after is not None
    assert len(after) == 24
    assert len(before) == 8  # an open reader still sees the old rows
    assert np.array_equal(before[:], rows_of(ids(0, 8)))


def test_only_missing_rows_are_computed(store: RowStore[np.float16]) -> None:
    computed: list[str] = []

    def compute(missing: Sequence[str]) -> list[Shard]:
        computed.extend(missing)
        return store.write_all(missing, rows_of(missing))

    assert np.array_equal(store.complete(ids(5, 15), compute)[:], rows_of(ids(5, 15)))
    assert np.array_equal(store.complete(ids(0, 20)[::-1], compute)[:], rows_of(ids(0, 20))[::-1])
    assert sorted(computed) == ids(0, 20)
    assert store.missing(ids(18, 22)) == ["020", "021"]


def test_shards_that_a_killed_process_left_behind_are_used(store: RowStore[np.float16]) -> None:
    class Killed(BaseException):
        pass

    def be_killed(missing: Sequence[str]) -> list[Shard]:
        store.write_all(missing[:16], rows_of(missing[:16]))
        raise Killed

    with pytest.raises(Killed):
        store.complete(ids(0, 30), be_killed)
    assert store.open() is None
    computed: list[str] = []

    def compute(missing: Sequence[str]) -> list[Shard]:
        computed.extend(missing)
        return store.write_all(missing, rows_of(missing))

    assert np.array_equal(store.complete(ids(0, 30), compute)[:], rows_of(ids(0, 30)))
    assert computed == ids(16, 30)


def test_a_left_behind_shard_with_a_known_image_is_not_used(store: RowStore[np.float16]) -> None:
    add(store, ids(0, 8))
    store.write(ids(7, 10), np.full((3, 2), 9, np.float16))
    computed: list[str] = []

    def compute(missing: Sequence[str]) -> list[Shard]:
        computed.extend(missing)
        return store.write_all(missing, rows_of(missing))

    assert np.array_equal(store.complete(ids(0, 10), compute)[:], rows_of(ids(0, 10)))
    assert computed == ["008", "009"]


def test_many_small_shards_are_merged_and_their_files_deleted(store: RowStore[np.float16]) -> None:
    add(store, ids(100, 108))  # a whole shard
    for number in range(row_store.SMALL_SHARDS - 1):
        add(store, ids(number, number + 1))
    assert len(files(store)) == row_store.SMALL_SHARDS
    add(store, ["050"])
    assert len(files(store)) == 3  # the whole one, and two for sixteen rows
    stored = store.open()
    assert stored is not None
    wanted = [*ids(100, 108), *ids(0, row_store.SMALL_SHARDS - 1), "050"]
    assert np.array_equal(stored[stored.find(wanted)], rows_of(wanted))


def test_too_many_rows_are_not_read_into_memory(
    store: RowStore[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, ids(0, 30))
    monkeypatch.setattr(row_blocks, "LARGE_POOL", 11)
    assert isinstance(store.complete(ids(0, 10), lambda _: []), np.ndarray)
    view = store.complete(ids(4, 20)[::-1], lambda _: [])
    assert isinstance(view, RowView)
    assert np.array_equal(view[2:5], rows_of(["017", "016", "015"]))


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(content[:-20])
    else:  # a single bit of a row, which only the checksum reveals
        at = content.index(rows_of(["013"]).tobytes())
        content[at] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "cut off", "one bit"])
def test_a_damaged_shard_is_named_and_computed_again(
    store: RowStore[np.float16], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    shard = add(store, ids(0, 30))[1]
    damage(Path(store.place.address) / shard.name, how)
    stored = store.open()
    assert stored is not None
    with pytest.raises(RowsLostError, match="its rows will be computed again"):
        stored[:]
    assert f"{shard.name} is damaged" in caplog.text
    assert store.missing(ids(0, 30)) == ids(8, 16)
    computed: list[str] = []

    def compute(missing: Sequence[str]) -> list[Shard]:
        computed.extend(missing)
        return store.write_all(missing, rows_of(missing))

    assert np.array_equal(store.complete(ids(0, 30), compute)[:], rows_of(ids(0, 30)))
    assert computed == ids(8, 16)


def test_damage_that_is_found_while_rows_are_completed_heals_at_once(
    store: RowStore[np.float16],
) -> None:
    shards = add(store, ids(0, 30))
    for shard in shards[1:3]:
        (Path(store.place.address) / shard.name).write_bytes(b"half a file")

    def compute(missing: Sequence[str]) -> list[Shard]:
        return store.write_all(missing, rows_of(missing))

    assert np.array_equal(store.complete(ids(0, 30), compute)[:], rows_of(ids(0, 30)))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 9}', b"\xff", b"[" * 100_000])
def test_a_damaged_manifest_is_named_and_shards_are_found_again(
    store: RowStore[np.float16], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    add(store, ids(0, 30))
    store.place.write("manifest.json", content)
    assert store.open() is None
    assert "manifest.json is damaged" in caplog.text

    def compute(missing: Sequence[str]) -> list[Shard]:
        raise AssertionError(missing)

    assert np.array_equal(store.complete(ids(0, 30), compute)[:], rows_of(ids(0, 30)))


def test_rows_of_another_network_are_ignored_and_replaced(
    store: RowStore[np.float16], caplog: pytest.LogCaptureFixture
) -> None:
    add(store, ids(0, 10))
    wider = RowStore(store.place, np.float16, 3)
    with caplog.at_level(logging.WARNING):
        assert wider.open() is None
    assert "rows of another network" in caplog.text
    rows = np.ones((10, 3), np.float16)
    found = wider.complete(ids(0, 10), lambda missing: wider.write_all(missing, rows))
    assert np.array_equal(found[:], rows)


def test_a_disk_that_damages_every_file_is_blamed(
    store: RowStore[np.float16], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_store, "DAMAGED_MAX", 3)

    def compute(missing: Sequence[str]) -> list[Shard]:
        shards = store.write_all(missing, rows_of(missing))
        for shard in shards:
            damage(Path(store.place.address) / shard.name, "one bit")
        return shards

    with pytest.raises(ModelFolderError, match="check its disk"):
        store.complete(ids(10, 16), compute)
