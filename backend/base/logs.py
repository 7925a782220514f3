"""Log one line per event to standard error, in the same format in every process.

Messages may contain text from requests. Therefore, each message is shortened to about
MESSAGE_MAX_CHARS characters, and its lines cannot be mistaken for a second event.
"""

from __future__ import annotations

import copy
import logging.config
import re
from typing import Any

from pythonjsonlogger.json import JsonFormatter

MESSAGE_MAX_CHARS = 2000
TAIL_CHARS = 400  # kept from the end, where RQ's tracebacks name the error
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class TextFormatter(logging.Formatter):
    """Write human-readable text; the second and later lines of an event are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Format an event, with its message cut to a limited length but any traceback in full."""
        text = UNPRINTABLE.sub(_escaped, super().format(_cut(record)))
        return text.replace("\n", "\n    ")


class ObjectFormatter(JsonFormatter):
    """Write one machine-readable JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format an event, with its message cut to a limited length but any traceback in full."""
        return super().format(_cut(record))


LINES = {"()": TextFormatter, "fmt": "%(asctime)s %(levelname)s %(message)s"}
JSON = {
    "()": ObjectFormatter,
    "fmt": "%(levelname)s %(name)s %(message)s",
    "timestamp": True,
    "rename_fields": {"levelname": "level", "name": "logger"},
}


def start_logging(log_format: str) -> None:
    """Log INFO and above, as `text` or as `json`."""
    logging.config.dictConfig(logging_config(log_format))


def logging_config(log_format: str) -> dict[str, Any]:
    """Return the logging configuration, as a dictionary for `logging.config.dictConfig`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": JSON if log_format == "json" else LINES},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "chosen"}},
        "root": {"level": "INFO", "handlers": ["stderr"]},
        "loggers": {
            "httpx": {"level": "WARNING"},  # httpx logs every request at INFO
        },
    }


def _cut(record: logging.LogRecord) -> logging.LogRecord:
    """Return the record with its message shortened if it is too long."""
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
