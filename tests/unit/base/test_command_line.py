"""Our commands as a shell and a person meet them: their help, their exit codes, their ends."""

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.base.command_line import run
from backend.base.settings import Settings
from backend.store.project_record import project_root, write_record
from scripts import setup_project
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


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """Run a command as from a shell; its exit code, its output and its errors."""

    def run_it(module: str, *arguments: str) -> tuple[Any, str, str]:
        path = str(ROOT / f"{module.replace('.', '/')}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        with pytest.raises(SystemExit) as end:
            run(importlib.import_module(module).main)
        return end.value.code, *capsys.readouterr()

    return run_it


@pytest.mark.parametrize("module", COMMANDS)
def test_help_says_what_it_does_with_an_example_and_the_exit_codes(
    module: str, typed: Callable[..., tuple[Any, str, str]]
) -> None:
    code, printed, errors = typed(module, "--help")
    assert (code, errors) == (0, "")
    assert printed.startswith(f"usage: python -m {module} ")
    assert {name for name, _ in EXAMPLE.findall(printed)} == {module}
    assert re.search(r"^exit codes:\n  0  .+\n  1  .+\n  2  .+", printed, re.MULTILINE)


@pytest.mark.parametrize("module", COMMANDS)
def test_every_example_is_a_command_line_that_is_understood(
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
def test_an_unknown_option_is_two_and_no_traceback(
    module: str, typed: Callable[..., tuple[Any, str, str]]
) -> None:
    code, printed, errors = typed(module, "--no-such-option")
    assert (code, printed) == (2, "")
    assert f"python -m {module}: error: " in errors
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


def test_the_local_stack_offers_up_and_down_only(
    typed: Callable[..., tuple[Any, str, str]],
) -> None:
    code, _, errors = typed("scripts.up", "start")
    assert code == 2
    assert "invalid choice: 'start' (choose from" in errors


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_ends_in_the_same_way(module: str) -> None:
    code = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert code.endswith('\n\nif __name__ == "__main__":\n    run(main)\n')


# As in a shell: what is printed is written when the buffer is full, or at the end.
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


def hear_ctrl_c() -> None:
    """What a shell starts in the background, these tests perhaps, ignores Ctrl-C, and so would its
    children.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(then: str, *, flush: bool = True) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(flush=flush, then=then)],
        cwd=ROOT,
        env=BUFFERED,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )


@pytest.mark.parametrize(
    ("then", "code"), [("return 0", 0), ("return 1", 1), ("sys.exit(2)", 2), ("return 130", 130)]
)
def test_a_command_ends_with_what_its_main_says(then: str, code: int) -> None:
    with start(then) as ended:
        assert ended.communicate() == ("began\n", "")
    assert ended.returncode == code


def test_a_known_error_is_its_message_on_stderr_and_one() -> None:
    with start("raise NoModelError('no model yet: label the first batch')") as ended:
        assert ended.communicate() == ("began\n", "no model yet: label the first batch\n")
    assert ended.returncode == 1


def test_ctrl_c_is_130_and_no_traceback() -> None:
    with start("time.sleep(60)") as asleep:
        assert asleep.stdout is not None
        assert asleep.stdout.readline() == "began\n"
        asleep.send_signal(signal.SIGINT)
        assert asleep.communicate(timeout=10) == ("", "")
    assert asleep.returncode == 130


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("then", ["print('x' * 10**6)\n    return 0", "sys.exit(0)", "return 0"])
def test_nobody_who_reads_on_is_no_traceback(then: str, flush: bool) -> None:
    with start(f"time.sleep(0.5)\n    {then}", flush=flush) as unread:
        assert unread.stdout is not None
        assert unread.stderr is not None
        unread.stdout.close()
        assert unread.stderr.read() == ""
        unread.wait(10)


@pytest.mark.parametrize(
    "module", ["scripts.env_file", "scripts.status", "backend.workers.processes"]
)
def test_help_into_a_closed_pipe_is_quiet(module: str) -> None:
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
    assert done.returncode == 141  # as the shell counts SIGPIPE


def test_ctrl_c_during_a_real_command_is_130_and_no_traceback(tmp_path: Path) -> None:
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
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **own, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    ) as running:
        assert running.stdout is not None
        while not running.stdout.readline().startswith("auto, "):
            assert running.poll() is None
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("module", ["scripts.env_file", "scripts.backup"])
def test_a_servers_own_commands_need_the_standard_library_alone(module: str) -> None:
    subprocess.run([sys.executable, "-S", "-m", module, "--help"], cwd=ROOT, check=True)


def test_the_json_of_set_up_is_alone_on_standard_output(
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
    }
    assert typed("scripts.setup_project") == (0, "pool      digits\n", "")


def test_status_without_a_redis_is_one_sentence_and_one(
    typed: Callable[..., tuple[Any, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(project_root(tmp_path, 7), record(7))
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@127.0.0.1:9/0")
    code, printed, errors = typed("scripts.status")
    assert (code, printed) == (1, "")
    assert errors == ("Redis cannot be used (ConnectionError): check that it runs and REDIS_URL\n")
