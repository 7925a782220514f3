"""Read and write the files of a local stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.local.folder import SOCKET_PATH_BYTES, StackError, StackFolder


def test_a_damaged_stack_json_reads_as_empty_and_can_be_written(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path)
    (tmp_path / "stack.json").write_text('{"pids": ')
    assert folder.read() == {}
    folder.update(pids={"redis": 7})
    assert folder.read() == {"pids": {"redis": 7}}
    assert (tmp_path / "stack.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["short", "long " * 30])
def test_socket_paths_are_short_enough_for_any_length_of_the_folder(
    tmp_path: Path, name: str
) -> None:
    folder = StackFolder(tmp_path / name)
    folder.path.mkdir()
    for _ in range(2):  # the second time, the folder exists, as after a crash
        folder.make_sockets_folder()
        (folder.sockets / "redis.sock").touch()
    sockets = folder.sockets
    assert len(bytes(sockets / "postgres/.s.PGSQL.5432")) < SOCKET_PATH_BYTES or name == "short"
    folder.remove_sockets_folder()
    assert not sockets.exists()
    assert list(folder.path.iterdir()) == []


def test_a_stack_cannot_be_started_twice_at_the_same_time(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path)
    with (
        folder.start_lock(),
        pytest.raises(StackError, match="another `make up`"),
        folder.start_lock(),
    ):
        pass
    with folder.start_lock():
        pass
