"""Logging: one line per event, to standard error, the same in every process."""

from __future__ import annotations

import logging


def start_logging() -> None:
    """Log from INFO on, but not every request that we make."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
