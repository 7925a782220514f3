"""Report progress: the phase, the share that is done, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # phase, done, total; the numbers are 0 if unknown

LINE_EVERY_S = 10.0
# Phases shorter than this get neither a log line nor a progress bar.
LONG_S = 2.0
# Units by the first word of a phase's name; all other phases count images.
UNITS = {
    "training": "steps",
    "adapting": "s",
    "downloading": "MB",
    "simulating": "rounds",
    "reading": "tasks",
    "creating": "tasks",
    "annotating": "labels",
}


def unit(phase: str) -> str:
    """Return the unit in which a phase's progress is counted."""
    return UNITS.get(phase.partition(" ")[0], "images")


def seconds_left(done: int, total: int, took_s: float) -> float | None:
    """Estimate the seconds left from the average pace, or return None if nothing is done yet."""
    return took_s / done * (total - done) if 0 < done <= total else None


def describe_time(seconds: float) -> str:
    """Return a time as text, in seconds up to two minutes and otherwise in minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class ProgressLines:
    """Write plain log lines: one every LINE_EVERY_S seconds, and one when a long phase ends."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._phase = ""
        self._done = self._first = 0
        self._since = self._written_at = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Report progress; see `Progress`."""
        now = self._clock()
        if phase != self._phase:
            self.end()
            self._phase, self._since, self._written_at = phase, now, now
            self._first = done  # what is resumed does not begin at 0
        self._done = done
        if total and done >= total:
            self.end()
        elif total and now - self._written_at >= LINE_EVERY_S:
            self._written_at = now
            left_s = seconds_left(done - self._first, total - self._first, now - self._since)
            left = "" if left_s is None else f", about {describe_time(left_s)} left"
            self._write(f"{phase}: {done:,} of {total:,} {unit(phase)} ({done / total:.0%}){left}")

    def end(self) -> None:
        """End the current phase if there is one."""
        took_s = self._clock() - self._since
        if self._phase and took_s > LONG_S:
            counted = f"{self._done:,} {unit(self._phase)}, " if self._done else ""
            self._write(f"{self._phase}: {counted}{took_s:.0f} s")
        self._phase, self._done = "", 0
