"""Logging: one line per event, to standard error, the same in every process.

What a request brings can get into a message: no message is longer than MESSAGE_MAX_CHARS, and none
can look like a second event.
"""

from __future__ import annotations

import copy
import logging.config
import re
from typing import Any

from pythonjsonlogger.json import JsonFormatter

MESSAGE_MAX_CHARS = 2000
TAIL_CHARS = 400  # the end of a trace that RQ writes into a message says what went wrong
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class TextFormatter(logging.Formatter):
    """Lines for people; those of one event after its first are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The event, its message cut; a trace stays whole."""
        text = UNPRINTABLE.sub(_escaped, super().format(_cut(record)))
        return text.replace("\n", "\n    ")


class ObjectFormatter(JsonFormatter):
    """An object a line, for machines; JSON itself escapes what it must."""

    def format(self, record: logging.LogRecord) -> str:
        """The event, its message cut; a trace stays whole."""
        return super().format(_cut(record))


LINES = {"()": TextFormatter, "fmt": "%(asctime)s %(levelname)s %(message)s"}
JSON = {
    "()": ObjectFormatter,
    "fmt": "%(levelname)s %(name)s %(message)s",
    "timestamp": True,
    "rename_fields": {"levelname": "level", "name": "logger"},
}


def start_logging(log_format: str) -> None:
    """Log from INFO on, as `text` or as `json`, one object a line."""
    logging.config.dictConfig(logging_config(log_format))


def logging_config(log_format: str) -> dict[str, Any]:
    """The same for whoever sets logging up by itself, in the form of logging.config.dictConfig."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": JSON if log_format == "json" else LINES},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "chosen"}},
        "root": {"level": "INFO", "handlers": ["stderr"]},
        "loggers": {
            "httpx": {"level": "WARNING"},  # not every request that we make
        },
    }


def _cut(record: logging.LogRecord) -> logging.LogRecord:
    """The record with a message of bounded length."""
    message = record.getMessage()
    n_more = len(message) - MESSAGE_MAX_CHARS
    if n_more <= 0:
        return record
    head = message[: MESSAGE_MAX_CHARS - TAIL_CHARS]
    short = copy.copy(record)
    short.msg = f"{head} … ({n_more:,} characters left out) … {message[-TAIL_CHARS:]}"
    short.args = None
    return short


def _escaped(found: re.Match[str]) -> str:
    return repr(found.group())[1:-1]
