"""Run our commands as from a shell: help, exit codes, interruption."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.base.command_line import run
from backend.base.settings import Settings
from backend.store.project_record import project_root, write_record
from scripts import setup_project
from tests.patience import PATIENCE_S
from tests.unit.store.test_registry import record

ROOT = Path(__file__).parents[3]
COMMANDS = [
    "backend.workers.processes",
    *(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "scripts").rglob("*.py"))
        if "\ndef main(" in path.read_text()
    ),
]
EXAMPLE = re.compile(r"^    python3? -m (\S+)(.*)", re.MULTILINE)


def typed_name(module: str) -> str:
    """Return the name of a command as users type it."""
    return module.removesuffix(".__main__")


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """Return a function that runs a command and returns its exit code, output and errors."""

    def run_it(module: str, *arguments: str) -> tuple[Any, str, str]:
        path = str(ROOT / f"{module.replace('.', '/')}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        with pytest.raises(SystemExit) as end:
            run(importlib.import_module(module).main)
        return end.value.code, *capsys.readouterr()

    return run_it


@pytest.mark.parametrize("module", COMMANDS)
def test_help_has_an_example_and_the_exit_codes(
    module: str, typed: Callable[..., tuple[Any, str, str]]
) -> None:
    code, printed, errors = typed(module, "--help")
    assert (code, errors) == (0, "")
    assert printed.startswith(f"usage: python -m {typed_name(module)} ")
    assert {name for name, _ in EXAMPLE.findall(printed)} == {typed_name(module)}
    assert re.search(r"^exit codes:\n  0  .+\n  1  .+\n  2  .+", printed, re.MULTILINE)


@pytest.mark.parametrize("module", COMMANDS)
def test_every_example_in_a_help_can_be_parsed(
    module: str, typed: Callable[..., tuple[Any, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, printed, _ = typed(module, "--help")
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        sys.exit("understood")

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    for _, arguments in EXAMPLE.findall(printed):
        typed_in = shlex.split(arguments.partition(">")[0], comments=True)
        assert typed(module, *typed_in) == ("understood", "", "")


@pytest.mark.parametrize("module", COMMANDS)
def test_an_unknown_option_exits_with_two_and_no_traceback(
    module: str, typed: Callable[..., tuple[Any, str, str]]
) -> None:
    code, printed, errors = typed(module, "--no-such-option")
    assert (code, printed) == (2, "")
    assert f"python -m {typed_name(module)}: error: " in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["list", "promote"])
def test_a_subcommand_has_its_own_help(
    command: str, typed: Callable[..., tuple[Any, str, str]]
) -> None:
    code, printed, _ = typed("scripts.models", command, "--help")
    assert code == 0
    assert printed.startswith(f"usage: python -m scripts.models {command} ")
    assert f"\n    python -m scripts.models {command}" in printed
    assert "\nexit codes:\n" in printed


def test_an_unknown_subcommand_of_the_local_stack_is_refused(
    typed: Callable[..., tuple[Any, str, str]],
) -> None:
    code, _, errors = typed("scripts.up", "start")
    assert code == 2
    assert "invalid choice: 'start' (choose from" in errors


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_file_ends_with_the_same_lines(module: str) -> None:
    code = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert code.endswith('\n\nif __name__ == "__main__":\n    run(main)\n')


# As in a shell, output is buffered until the buffer is full or the program ends.
BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}
PROGRAM = """
import sys, time
from backend.base.command_line import run
from backend.base.errors import NoModelError
def main():
    print("began", flush={flush})
    {then}
run(main)
"""


def heed_ctrl_c() -> None:
    """Heed Ctrl-C even if a shell runs these tests in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and kill it afterwards if it still runs."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def start(then: str, *, flush: bool = True) -> AbstractContextManager[subprocess.Popen[str]]:
    return running([sys.executable, "-c", PROGRAM.format(flush=flush, then=then)], BUFFERED)


@pytest.mark.parametrize(
    ("then", "code"), [("return 0", 0), ("return 1", 1), ("sys.exit(2)", 2), ("return 130", 130)]
)
def test_the_exit_code_is_what_main_returns(then: str, code: int) -> None:
    with start(then) as ended:
        assert ended.communicate() == ("began\n", "")
    assert ended.returncode == code


def test_a_known_error_prints_its_message_on_stderr_and_exits_with_one() -> None:
    with start("raise NoModelError('no model yet: label the first batch')") as ended:
        assert ended.communicate() == ("began\n", "no model yet: label the first batch\n")
    assert ended.returncode == 1


def test_ctrl_c_exits_with_130_and_no_traceback() -> None:
    with start("time.sleep(600)") as asleep:
        assert asleep.stdout is not None
        assert asleep.stdout.readline() == "began\n"
        asleep.send_signal(signal.SIGINT)
        assert asleep.communicate(timeout=PATIENCE_S) == ("", "")
    assert asleep.returncode == 130


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("then", ["print('x' * 10**6)\n    return 0", "sys.exit(0)", "return 0"])
def test_a_closed_output_causes_no_traceback(then: str, flush: bool) -> None:
    with start(f"time.sleep(0.5)\n    {then}", flush=flush) as unread:
        assert unread.stdout is not None
        assert unread.stderr is not None
        unread.stdout.close()
        assert unread.stderr.read() == ""
        unread.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "module", ["scripts.env_file", "scripts.status", "backend.workers.processes"]
)
def test_help_into_a_closed_pipe_prints_no_error(module: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env=BUFFERED,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141  # the shell's exit code for SIGPIPE


def test_ctrl_c_in_a_destructor_still_ends_the_command() -> None:
    ignored = """
    class Ignorant:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)
    import signal
    Ignorant()
    time.sleep(3600)
    return 0
"""
    with start(ignored) as interrupted:
        _, errors = interrupted.communicate(timeout=PATIENCE_S)
    assert interrupted.returncode == 130
    assert "Traceback" not in errors


def test_ctrl_c_during_a_real_command_exits_with_130_and_no_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "scripts.research.simulate",
        "--jobs",
        "1",
        "--out",
        str(tmp_path),
    ]
    own = {"POOL": "digits", "WEIGHTS": "none", "DATA_DIR": str(tmp_path)}
    with running(command, {**os.environ, **own, "PYTHONUNBUFFERED": "1"}) as simulation:
        assert simulation.stdout is not None
        while not simulation.stdout.readline().startswith("auto, "):
            assert simulation.poll() is None
        time.sleep(0.2)
        simulation.send_signal(signal.SIGINT)
        _, errors = simulation.communicate(timeout=PATIENCE_S)
    assert simulation.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("module", ["scripts.env_file", "scripts.backup"])
def test_commands_that_run_on_a_server_need_only_the_standard_library(module: str) -> None:
    subprocess.run([sys.executable, "-S", "-m", module, "--help"], cwd=ROOT, check=True)


def test_set_up_with_json_prints_only_json_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, typed: Callable[..., tuple[Any, str, str]]
) -> None:
    def set_up(_: Settings, **__: object) -> int:
        sys.stdout.write("pool      digits\n")
        return 7

    monkeypatch.setattr(setup_project, "set_up", set_up)
    monkeypatch.setenv("LABEL_STUDIO_HOST", "https://label.example.org")
    code, printed, notes = typed("scripts.setup_project", "--json")
    assert (code, notes) == (0, "pool      digits\n")
    assert json.loads(printed) == {
        "project_id": 7,
        "project_url": "https://label.example.org/projects/7/data",
        "projects": [],
    }
    assert typed("scripts.setup_project") == (0, "pool      digits\n", "")


def test_status_without_redis_prints_one_sentence_and_exits_with_one(
    typed: Callable[..., tuple[Any, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(project_root(tmp_path, 7), record(7))
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@127.0.0.1:9/0")
    code, printed, errors = typed("scripts.status")
    assert (code, printed) == (1, "")
    assert errors == (
        "Redis cannot be used (ConnectionError): check that it is running, and check REDIS_URL\n"
    )
