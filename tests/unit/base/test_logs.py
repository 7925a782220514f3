"""Logging: one line per event, as text or as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging
from backend.base.logs import start_logging
start_logging({log_format!r})
logging.getLogger("backend.rounds.rounds").info("round %d: %d labels", 7, 350)
logging.getLogger("httpx").info("a request")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("backend.workers.jobs").exception("it failed")
"""


def logged(log_format: str) -> list[str]:
    program = PROGRAM.format(log_format=log_format)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_has_one_object_per_event_with_its_traceback_inside() -> None:
    event, failure = map(json.loads, logged("json"))
    assert event.pop("timestamp")
    assert event == {
        "level": "INFO",
        "logger": "backend.rounds.rounds",
        "message": "round 7: 350 labels",
    }
    assert failure["level"] == "ERROR"
    assert "ZeroDivisionError" in failure["exc_info"]


def test_text_is_for_people_and_leaves_out_our_own_requests() -> None:
    lines = logged("text")
    assert lines[0].endswith(" INFO round 7: 350 labels")
    assert not [line for line in lines if "a request" in line]


FORGER = """
import logging
from backend.base.logs import start_logging
start_logging({log_format!r})
log = logging.getLogger("backend.web.serving")
log.warning("no prediction: %s", {text!r})
try:
    raise ValueError({text!r})
except ValueError:
    log.exception("it failed")
"""


def log_lines(log_format: str, text: str) -> list[str]:
    program = FORGER.format(log_format=log_format, text=text)
    done = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_message_of_100_kb_is_cut_to_2_kb_but_its_traceback_is_complete(
    log_format: str,
) -> None:
    warning, *failure = log_lines(log_format, "/data/" + 100_000 * "x" + "/end")
    assert 2000 < len(warning) < 2200
    assert "no prediction: /data/xxx" in warning
    assert "xxx/end" in warning
    # "no prediction: " and the address are 100,025 characters
    assert "98,025 characters left out" in warning
    assert 100_000 * "x" in "".join(failure)


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n", "\x85", "\u2028", "\x0c", "\x1b[2K\r"])
def test_a_message_cannot_forge_a_second_event(ending: str) -> None:
    forged = "2026-11-25 12:00:00,000 INFO r0009 promoted"
    lines = log_lines("text", f"a.png{ending}{forged}")
    events = [line for line in lines if line.startswith("20")]
    assert not [line for line in lines if line.startswith(forged)]
    assert len(events) == 2
    assert all(line.startswith("    ") for line in lines if line not in events)
    assert not any(mark in line for line in lines for mark in "\x1b\r\x85\u2028\x0c")


def test_an_event_in_json_is_one_line_even_if_its_message_has_line_breaks() -> None:
    lines = log_lines("json", "a.png\n\u2028\x85\r{}")
    assert len([json.loads(line) for line in lines]) == 2
