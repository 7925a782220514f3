"""Set the separate clock of a stack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from subprocess import PIPE

import pytest

from scripts.research.chaos.stack_clock import set_stack_clock, stack_clock

HOUR_S = 3600
# Prints, for each line of its input: the time of day twice, the monotonic time, and how long a
# sleep took.
PROGRAM = """
import datetime, json, sys, time
for _ in sys.stdin:
    began = time.monotonic()
    time.sleep(0.05)
    today = datetime.datetime.now(datetime.UTC).timestamp()
    print(json.dumps([time.time(), today, time.monotonic(), time.monotonic() - began]), flush=True)
"""


def test_a_running_process_follows_the_clock_and_its_monotonic_clock_does_not() -> None:
    with stack_clock() as environment:
        if not environment:
            assert shutil.which("cc") is None
            return
        command = [sys.executable, "-c", PROGRAM]
        with subprocess.Popen(
            command, env=os.environ | environment, stdin=PIPE, stdout=PIPE, text=True
        ) as program:
            assert program.stdin
            assert program.stdout
            for offset_s in (0, HOUR_S, -24 * HOUR_S, 0):
                set_stack_clock(environment, offset_s)
                program.stdin.write("now\n")
                program.stdin.flush()
                *times, monotonic, slept_s = json.loads(program.stdout.readline())
                for at in times:
                    assert abs(at - time.time() - offset_s) < 60
                assert abs(monotonic - time.monotonic()) < 60
                assert slept_s >= 0.05
            program.stdin.close()


def test_without_a_c_compiler_a_stack_keeps_the_clock_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with stack_clock() as environment:
        assert environment == {}
