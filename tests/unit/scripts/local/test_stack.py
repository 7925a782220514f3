"""Press Ctrl-C during `make up` at moments that a test with a real stack cannot hit."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.local import stack
from scripts.local.processes import processes
from scripts.local.settings import MARK, StackSettings
from scripts.local.stack import LocalStack


@pytest.fixture
def local_stack(tmp_path: Path) -> LocalStack:
    return LocalStack(StackSettings.model_validate({"var_dir": tmp_path, "detach": False}))


@pytest.fixture(autouse=True)
def one_process_instead_of_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    started = []

    def start(starting: LocalStack) -> None:
        folder = starting.folder.path
        (folder / "log").mkdir()
        process = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: str(folder)})
        started.append(process)
        (folder / "stack.json").write_text(json.dumps({"pids": {"supervisord": process.pid}}))

    monkeypatch.setattr(LocalStack, "_start", start)
    monkeypatch.setattr(stack, "check_ports", lambda _: None)
    yield
    for process in started:
        process.kill()
        process.wait()


def press_ctrl_c(*_: object) -> str:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["where_to_go", "_follow"])
def test_ctrl_c_stops_everything_once_the_stack_is_ready(
    local_stack: LocalStack, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    if moment == "_follow":
        monkeypatch.setattr(stack, "where_to_go", lambda _: "where to go")
        monkeypatch.setattr(LocalStack, "_follow", press_ctrl_c)
    else:
        monkeypatch.setattr(stack, "where_to_go", press_ctrl_c)
    assert local_stack.up() == 0
    assert not processes(local_stack.folder)


def test_ctrl_c_at_a_second_up_leaves_the_first_alone(
    local_stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_stack._start()
    monkeypatch.setattr(stack, "where_to_go", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        local_stack.up()
    assert len(processes(local_stack.folder)) == 1
