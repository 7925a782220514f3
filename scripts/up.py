"""Run the whole stack on this machine, without Docker.

    python -m scripts.up         # start the stack and run it until Ctrl-C
    python -m scripts.up down    # stop the stack

With DETACH=1, the stack runs in the background. While it runs, var/stack.json contains all
addresses, process ids and passwords. To use another folder, set VAR_DIR.
"""

from __future__ import annotations

import os
import signal
import subprocess
from xmlrpc.client import Fault

from backend.base.command_line import CommandParser, run
from scripts.local.folder import StackError
from scripts.local.processes import SIGNALS
from scripts.local.settings import StackSettings
from scripts.local.stack import LocalStack


def main() -> int:
    """Start or stop the stack."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "command", nargs="?", choices=("up", "down"), default="up", help="default: up"
    )
    command = parser.parse_args().command
    os.umask(0o077)  # the stack's folder contains secrets, images and labels
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    stack = LocalStack(StackSettings.load())
    try:
        return stack.up() if command == "up" else stack.down()
    except (OSError, Fault, subprocess.SubprocessError) as error:
        raise StackError(str(error)) from error


if __name__ == "__main__":
    run(main)
