"""Command lines: what a person typed in, arguments or help out; and how all our commands end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

EXIT_CODES = """\
exit codes:
  0  done
  1  something was in the way: standard error says what
  2  the command line is wrong
"""


class CommandParser(argparse.ArgumentParser):
    """Its help shows the description (a module's docstring, with examples) as it was written, and
    the exit codes; so does that of its subcommands.
    """

    def __init__(self, **options: Any) -> None:
        file = Path(sys.argv[0])
        options = {"prog": f"python -m {file.parent.name}.{file.stem}", **options}
        super().__init__(
            epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )


def run(main: Callable[[], int]) -> NoReturn:
    """End this process with what `main` returns; as a shell expects after Ctrl-C, or where nobody
    reads on (`… | head -1`).
    """
    try:
        try:
            code = main()
        finally:
            sys.stdout.flush()  # else a closed pipe shows where nobody can catch it any more
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # What is still in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)
