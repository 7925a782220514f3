"""Prepare .env for `docker compose up`: create missing secrets, and report problems.

    python3 -m scripts.env_file

This command uses only the standard library, so a server needs only Docker, make and Python 3.
"""

from __future__ import annotations

import sys

from backend.base.command_line import CommandParser, run
from scripts.compose.docker import compose_command
from scripts.compose.env import ENV, read_env, write_missing
from scripts.compose.preflight import find_notes, find_problems


def main() -> int:
    """Write .env and report every problem."""
    CommandParser(description=__doc__).parse_args()
    made = write_missing(ENV)
    print(f"{ENV}: created {', '.join(made)}" if made else f"{ENV}: all secrets exist already")
    env = read_env(ENV)
    for note in find_notes(env):
        print(f"note: {note}")
    problems = list(find_problems(env))
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if not problems:
        print(f"next: {' '.join(compose_command())} up -d")
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
