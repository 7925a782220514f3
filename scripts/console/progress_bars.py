"""Show a command's progress: bars on a terminal, plain lines in a log or file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from backend.base.progress import LONG_S, Progress, ProgressLines, unit


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield a function that shows progress on standard error."""
    if sys.stderr.isatty():
        bars = _Bars()
        try:
            yield bars
        finally:
            bars.close()
    else:
        lines = ProgressLines(lambda line: print(line, file=sys.stderr, flush=True))
        yield lines
        lines.end()


class _Bars:
    """Shows a bar for each long phase, or only the phase's name if it has no total."""

    def __init__(self) -> None:
        self._phase = ""
        self._bar = tqdm(disable=True)

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase or done < self._bar.n:
            self.close()
            self._phase = phase
            self._bar = (
                tqdm(desc=phase, total=total, unit=f" {unit(phase)}", delay=LONG_S)
                if total
                else tqdm(desc=phase, bar_format="{desc} …", leave=False)
            )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()
