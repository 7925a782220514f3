"""Logging: one line per event, as text or as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging
from backend.logs import start_logging
start_logging({log_format!r})
logging.getLogger("backend.rounds").info("round %d: %d labels", 7, 350)
logging.getLogger("httpx").info("a request")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("backend.jobs").exception("it failed")
"""


def logged(log_format: str) -> list[str]:
    program = PROGRAM.format(log_format=log_format)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_per_event_with_its_traceback_inside() -> None:
    event, failure = map(json.loads, logged("json"))
    assert event.pop("timestamp")
    assert event == {"level": "INFO", "logger": "backend.rounds", "message": "round 7: 350 labels"}
    assert failure["level"] == "ERROR"
    assert "ZeroDivisionError" in failure["exc_info"]


def test_text_is_for_people_and_leaves_out_our_own_requests() -> None:
    lines = logged("text")
    assert lines[0].endswith(" INFO round 7: 350 labels")
    assert not [line for line in lines if "a request" in line]
