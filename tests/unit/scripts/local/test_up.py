"""What `make up` does with a Ctrl-C, at the moments that a test with a real stack cannot hit."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import up


@pytest.fixture
def settings(tmp_path: Path) -> up.StackSettings:
    return up.StackSettings.model_validate({"var_dir": tmp_path, "detach": False})


@pytest.fixture(autouse=True)
def one_process_instead_of_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    started = []

    def start(_: up.StackSettings, var: Path) -> None:
        (var / "log").mkdir()
        process = subprocess.Popen(["sleep", "600"], env={**os.environ, up.MARK: str(var)})
        started.append(process)
        (var / "stack.json").write_text(json.dumps({"pids": {"supervisord": process.pid}}))

    monkeypatch.setattr(up, "_start", start)
    monkeypatch.setattr(up, "_check_ports", lambda _: None)
    monkeypatch.setattr(up, "_stop_programs", lambda _: None)  # there is no supervisord to ask
    yield
    for process in started:
        process.kill()
        process.wait()


def press_ctrl_c(*_: object) -> str:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["_where_to_go", "_stay"])
def test_ctrl_c_stops_everything_from_the_moment_it_is_ready(
    settings: up.StackSettings, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    if moment == "_stay":
        monkeypatch.setattr(up, "_where_to_go", lambda _: "where to go")
    monkeypatch.setattr(up, moment, press_ctrl_c)
    assert up.up(settings) == 0
    assert not up.processes(settings.var_dir)


def test_ctrl_c_at_a_second_up_leaves_the_first_alone(
    settings: up.StackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    up._start(settings, settings.var_dir)
    monkeypatch.setattr(up, "_where_to_go", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        up.up(settings)
    assert len(up.processes(settings.var_dir)) == 1
