"""What `make up` checks and prints, and Ctrl-C at moments that a real stack cannot hit."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.base.errors import PoolError
from backend.store.project_record import project_root, write_record
from scripts.local import stack
from scripts.local.processes import processes
from scripts.local.settings import MARK, StackSettings
from scripts.local.stack import LocalStack, where_to_go
from tests.unit.store.test_registry import record


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


def test_a_bad_setting_of_the_project_is_named_before_anything_starts(tmp_path: Path) -> None:
    settings = StackSettings.model_validate({"var_dir": tmp_path, "pool": "no/such/folder"})
    with pytest.raises(PoolError, match="no/such/folder"):
        LocalStack(settings).up()
    assert {path.name for path in tmp_path.iterdir()} == {"up.lock"}


def test_up_names_every_project_that_was_set_up_since_the_start(
    local_stack: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    local_stack._start()
    for project_id, title in ((1, "Photos"), (4, "Birds")):
        kept = record(project_id).model_copy(update={"title": title})
        write_record(project_root(local_stack.settings.model_dir, project_id), kept)
    local_stack.folder.update(
        project_url="http://localhost:8080/projects/1/data",
        username="u",
        password="p",
        dashboard_url="d",
    )
    assert local_stack.up() == 0
    printed = capsys.readouterr().out
    assert "http://localhost:8080/projects/1/data  Photos" in printed
    assert "http://localhost:8080/projects/4/data  Birds" in printed
    assert [link["title"] for link in local_stack.folder.read()["projects"]] == ["Photos", "Birds"]


def test_up_says_how_to_add_a_project_to_a_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = StackSettings.model_validate({"var_dir": tmp_path, "project_title": "Birds"})
    running = LocalStack(settings)
    running._start()
    monkeypatch.setattr(stack, "where_to_go", lambda _: "where to go")
    assert running.up() == 0
    assert '"Birds" is not set up yet' in capsys.readouterr().out


def test_a_single_project_is_printed_without_its_title() -> None:
    stack = {"project_url": "http://here/1", "username": "u", "password": "p", "dashboard_url": "d"}
    assert "  Open       http://here/1\n  Log in" in where_to_go(stack)
