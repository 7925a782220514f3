"""Test the store of decoded images on a few files that can be checked by hand."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from backend.base.arrays import RowView
from backend.images.framing import FramingName, View
from backend.images.pixels import CHUNK, Original, PixelStore, stamp
from tests.patience import PATIENCE_S


def quiet(*_: object) -> None:
    """No progress."""


class Files:
    """A source of gray squares in memory that counts how often each one is opened."""

    def __init__(self, n_images: int, size: tuple[int, int] = (4, 4)) -> None:
        self.size = size
        self.gray = {f"{i:016x}": i for i in range(n_images)}
        self.opened: list[str] = []
        self.is_reachable = True
        self.time = "1"

    def open(self, location: str) -> BinaryIO:
        if not self.is_reachable:
            raise OSError(5, "Input/output error")
        self.opened.append(location)
        file = io.BytesIO()
        Image.new("L", self.size, self.gray[location]).save(file, "PNG")
        file.seek(0)
        return file

    def originals(self) -> list[Original]:
        return [Original(i, i, stamp(1, self.time)) for i in self.gray]


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., PixelStore]:
    def make(framing: FramingName = "whole", side: int = 4) -> PixelStore:
        return PixelStore(tmp_path / "store", View(side, framing), 1_000_000)

    return make


def grays(store: PixelStore, image_ids: list[str]) -> list[int]:
    return [int(gray) for gray in store.images(image_ids)[:][:, 0, 0, 0]]


def test_images_are_decoded_once_and_read_in_any_order(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(5), make_store()
    found = store.decode(files.originals(), files.open, quiet)
    ids = list(files.gray)
    assert list(found.contents) == ids
    assert len(set(found.contents.values())) == 5
    assert grays(store, [ids[3], ids[0], ids[3]]) == [3, 0, 3]
    assert store.images(ids).shape == (5, 4, 4, 3)

    files.opened.clear()
    again = make_store()
    assert again.decode(files.originals(), files.open, quiet) == found
    assert files.opened == []
    assert grays(again, ids) == [0, 1, 2, 3, 4]


def test_only_new_and_changed_images_are_decoded(make_store: Callable[..., PixelStore]) -> None:
    files, store = Files(3), make_store()
    store.decode(files.originals(), files.open, quiet)
    before = store.images(list(files.gray))
    new = f"{7:016x}"
    files.gray[new] = 9
    changed, *others = files.originals()
    files.gray[changed.image_id] = 200
    files.opened.clear()

    assert store.content(Original(changed.image_id, "", stamp(1, "2"))) == ""
    assert store.holds(changed.image_id)
    wanted = [Original(changed.image_id, changed.location, stamp(1, "2")), *others]
    store.decode(wanted, files.open, quiet)

    assert files.opened == [changed.image_id, new]
    assert grays(store, list(files.gray)) == [200, 1, 2, 9]
    assert before[:][:, 0, 0, 0].tolist() == [0, 1, 2]  # an open pool stays as it was


def test_the_same_content_has_the_same_hash(make_store: Callable[..., PixelStore]) -> None:
    files = Files(3)
    one, other, third = files.gray
    files.gray[other] = files.gray[one]
    contents = make_store().decode(files.originals(), files.open, quiet).contents
    assert contents[one] == contents[other] != contents[third]


def test_a_damaged_image_is_reported_and_the_others_are_kept(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(3), make_store()
    bad = list(files.gray)[1]

    def open_file(location: str) -> BinaryIO:
        return io.BytesIO(b"text") if location == bad else files.open(location)

    found = store.decode(files.originals(), open_file, quiet)
    assert list(found.damaged) == [bad]
    assert "damaged or has an unknown format" in found.damaged[bad]
    assert not store.holds(bad)
    assert len(found.contents) == 2


def test_a_source_out_of_reach_is_tried_for_one_chunk_only(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(CHUNK + 10), make_store()
    files.is_reachable = False
    found = store.decode(files.originals(), files.open, quiet)
    assert set(found.unreadable.values()) == {"Input/output error"}
    assert len(found.unreadable) == CHUNK
    assert not found.contents
    assert not found.damaged
    files.is_reachable = True
    assert len(store.decode(files.originals(), files.open, quiet).contents) == CHUNK + 10


def test_decoding_ends_after_the_chunk_in_which_time_is_up(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(CHUNK + 10), make_store()
    assert len(store.decode(files.originals(), files.open, quiet, until=0).contents) == CHUNK
    assert len(store.decode(files.originals(), files.open, quiet, until=0).contents) == CHUNK + 10


@pytest.mark.parametrize(
    ("framing", "size", "shape"),
    [
        pytest.param("whole", (3, 3), (3, 3), id="small squares"),
        pytest.param("whole", (8, 8), (4, 4), id="large squares"),
        pytest.param("whole", (4, 2), (4, 4), id="not square"),
        pytest.param("middle", (20, 10), (10, 20), id="middle, of one size"),
        pytest.param("middle", (300, 300), (96, 96), id="middle, large"),
    ],
)
def test_images_of_one_size_keep_it_if_the_model_loses_nothing(
    make_store: Callable[..., PixelStore],
    framing: FramingName,
    size: tuple[int, int],
    shape: tuple[int, int],
) -> None:
    files, store = Files(2, size), make_store(framing)
    store.decode(files.originals(), files.open, quiet)
    assert store.images(list(files.gray)).shape == (2, *shape, 3)


def test_a_later_image_of_another_size_is_framed_like_the_first_ones(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(2, (3, 3)), make_store()
    store.decode(files.originals(), files.open, quiet)
    files.gray[f"{9:016x}"] = 9
    files.size = (30, 10)
    store.decode(files.originals(), files.open, quiet)
    assert store.images(list(files.gray)).shape == (3, 3, 3, 3)
    assert grays(store, list(files.gray)) == [0, 1, 9]


def test_an_incomplete_row_is_cut_off_and_decoded_again(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(4), make_store()
    store.decode(files.originals(), files.open, quiet)
    row_bytes = 4 * 4 * 3
    with (store.folder / "pixels.bin").open("ab") as file:
        file.write(b"half a row")
    with (store.folder / "rows.txt").open("rb+") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 5)  # the last line is incomplete

    cut = make_store()
    ids = list(files.gray)
    assert [cut.holds(i) for i in ids] == [True, True, True, False]
    cut.decode(files.originals(), files.open, quiet)
    assert grays(cut, ids) == [0, 1, 2, 3]
    assert (store.folder / "pixels.bin").stat().st_size == 4 * row_bytes

    os.truncate(store.folder / "pixels.bin", 2 * row_bytes + 1)  # lines outlived their pixels
    cut = make_store()
    assert [cut.holds(i) for i in ids] == [True, True, False, False]
    cut.decode(files.originals(), files.open, quiet)
    assert grays(make_store(), ids) == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", [b"\0" * 40 + b"\n", b"4 4\n" + b"\0" * 90 + b"\n", b""])
def test_a_damaged_list_of_rows_is_decoded_again(
    make_store: Callable[..., PixelStore], damage: bytes
) -> None:
    files, store = Files(3), make_store()
    store.decode(files.originals(), files.open, quiet)
    (store.folder / "rows.txt").write_bytes(damage)
    make_store().decode(files.originals(), files.open, quiet)
    assert grays(make_store(), list(files.gray)) == [0, 1, 2]


def test_a_store_deleted_while_it_is_open_begins_again(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(3), make_store()
    store.decode(files.originals(), files.open, quiet)
    for file in store.folder.iterdir():
        file.unlink()
    store.refresh()
    assert not store.holds(next(iter(files.gray)))
    store.decode(files.originals(), files.open, quiet)
    assert grays(make_store(), list(files.gray)) == [0, 1, 2]


def test_a_full_disk_costs_only_the_chunk_that_did_not_fit(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(2 * CHUNK, (8, 8)), make_store(side=8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK * 192 + 1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.decode(files.originals(), files.open, quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    files.opened.clear()
    again = make_store(side=8)
    again.decode(files.originals(), files.open, quiet)
    assert len(set(files.opened)) == CHUNK
    assert grays(again, list(files.gray)) == list(range(2 * CHUNK))


CHILD = """
import sys
from pathlib import Path
from tests.unit.images.test_pixels import Files, quiet
from backend.images.framing import View
from backend.images.pixels import PixelStore
files = Files(200)
PixelStore(Path(sys.argv[1]), View(4), 1_000_000).decode(files.originals(), files.open, quiet)
"""


def test_two_processes_that_decode_at_once_keep_each_image_once(
    make_store: Callable[..., PixelStore],
) -> None:
    store = make_store()
    command = [sys.executable, "-c", CHILD, str(store.folder)]
    children = [subprocess.Popen(command, cwd=Path(__file__).parents[3]) for _ in range(2)]
    assert [child.wait(timeout=PATIENCE_S) for child in children] == [0, 0]
    files = Files(200)
    store.refresh()
    assert grays(store, list(files.gray)) == list(range(200))
    assert (store.folder / "pixels.bin").stat().st_size == 200 * 48


def test_a_view_reads_slices_and_rows_of_a_map_that_nobody_can_write(
    make_store: Callable[..., PixelStore],
) -> None:
    files, store = Files(6), make_store()
    store.decode(files.originals(), files.open, quiet)
    view = store.images([*files.gray][::-1])
    assert len(view) == 6
    assert view[1:3][:, 0, 0, 0].tolist() == [4, 3]
    assert view[np.array([5, 0])][:, 0, 0, 0].tolist() == [0, 5]
    assert isinstance(view, RowView)
    assert isinstance(view._whole, np.memmap)
    assert not view._whole.flags.writeable
