"""Parse command lines, and end every command in the same way."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from backend.base.errors import TightloopError

ROOT = Path(__file__).resolve().parents[2]
REPEAT_AFTER_S = 0.05
EXIT_CODES = """\
exit codes:
  0  done
  1  failed; see stderr
  2  the command line is wrong
"""


class CommandParser(argparse.ArgumentParser):
    """In help texts, show the module's docstring as written, and then the exit codes."""

    def __init__(self, **options: Any) -> None:
        file = Path(sys.argv[0]).resolve().with_suffix("")
        module = ".".join(file.relative_to(ROOT).parts) if file.is_relative_to(ROOT) else file.name
        options = {"prog": f"python -m {module.removesuffix('.__main__')}", **options}
        super().__init__(
            epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )


def run(main: Callable[[], int]) -> NoReturn:
    """End this process with the exit code that `main` returns.

    If `main` raises a TightloopError, print it to stderr and exit with code 1. After Ctrl-C or a
    closed pipe (`… | head -1`), exit with the code that a shell expects.
    """
    try:
        try:
            with _repeat_ignored_interrupts():
                code = main()
        finally:
            sys.stdout.flush()  # a closed pipe must raise its error here, where it is caught
    except TightloopError as error:
        sys.stderr.write(f"{error}\n")
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # Discard the rest of the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)


@contextmanager
def _repeat_ignored_interrupts() -> Iterator[None]:
    """Repeat a Ctrl-C that arrived in a callback or destructor, where Python ignores exceptions."""
    former = sys.unraisablehook

    def repeat(ignored: sys.UnraisableHookArgs) -> None:
        if ignored.exc_type is not KeyboardInterrupt:
            former(ignored)
            return
        # Not at once, because the callback has not returned yet. Only a real signal interrupts a
        # main thread that is waiting.
        main_thread = threading.main_thread().ident
        timer = threading.Timer(REPEAT_AFTER_S, signal.pthread_kill, (main_thread, signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = former
