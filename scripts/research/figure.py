"""A row of the benchmark's table, and what is said while it is measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    target: str = "measured"


def say(what: str) -> None:
    """Tell people what is being measured."""
    print(what, file=sys.stderr, flush=True)
