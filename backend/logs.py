"""Logging: one line per event, to standard error, the same in every process."""

from __future__ import annotations

import logging.config
from typing import Any

LINES = {"format": "%(asctime)s %(levelname)s %(message)s"}
JSON = {
    "()": "pythonjsonlogger.json.JsonFormatter",
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
            # It would write its own form beside ours.
            "gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True},
        },
    }
