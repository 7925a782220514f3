"""Progress: a phase and how far it is in; the seconds left, and plain lines for a log, out."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # phase, done, total; 0, 0 where nobody can count

LINE_EVERY_S = 10.0
# A phase that took less is not worth a line, or a bar.
LONG_S = 2.0
# What a phase counts, by its first word; all others count images.
UNITS = {"training": "steps", "downloading": "MB", "simulating": "rounds"}


def unit(phase: str) -> str:
    """What it counts."""
    return UNITS.get(phase.partition(" ")[0], "images")


def seconds_left(done: int, total: int, took_s: float) -> float | None:
    """At the pace so far; None before there is any."""
    return took_s / done * (total - done) if 0 < done <= total else None


class ProgressLines:
    """Plain lines for logs: one in LINE_EVERY_S while a phase lasts, one when a long one ends."""

    def __init__(
        self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._phase = ""
        self._done = 0
        self._since = self._told_at = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        """A `Progress`."""
        now = self._clock()
        if phase != self._phase:
            self.end()
            self._phase, self._since, self._told_at = phase, now, now
        self._done = done
        if total and done >= total:
            self.end()
        elif total and now - self._told_at >= LINE_EVERY_S:
            self._told_at = now
            left_s = seconds_left(done, total, now - self._since)
            left = "" if left_s is None else f", about {left_s:.0f} s left"
            self._tell(f"{phase}: {done:,} of {total:,} {unit(phase)} ({done / total:.0%}){left}")

    def end(self) -> None:
        """The phase at hand, if there is one, is over."""
        took_s = self._clock() - self._since
        if self._phase and took_s > LONG_S:
            counted = f"{self._done:,} {unit(self._phase)}, " if self._done else ""
            self._tell(f"{self._phase}: {counted}{took_s:.0f} s")
        self._phase, self._done = "", 0
