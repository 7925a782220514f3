"""Progress in a log and on a terminal, with a clock that the tests set."""

from __future__ import annotations

import io
import sys
from functools import partial

import pytest

from backend.base.progress import Progress, ProgressLines, describe_time, seconds_left
from scripts.console.progress_bars import progress_bar


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """The lines that were logged, each with its time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lines: list[tuple[float, str]] = []
        self.progress = ProgressLines(
            lambda line: self.lines.append((self.clock.now, line)), self.clock
        )

    def work(self, phase: str, total: int, seconds: int, *, until: int | None = None) -> None:
        """Report progress every second: `total` items in `seconds`."""
        began = self.clock.now
        for second in range((until or seconds) + 1):
            self.clock.now = began + second
            self.progress(phase, total * second // seconds, total)


def test_a_long_phase_logs_a_line_every_ten_seconds_and_one_at_its_end() -> None:
    log = Log()
    log.work("scoring the pool", 48_000, 40)
    assert log.lines == [
        (10, "scoring the pool: 12,000 of 48,000 images (25%), about 30 s left"),
        (20, "scoring the pool: 24,000 of 48,000 images (50%), about 20 s left"),
        (30, "scoring the pool: 36,000 of 48,000 images (75%), about 10 s left"),
        (40, "scoring the pool: 48,000 images, 40 s"),
    ]


def test_a_short_phase_logs_nothing() -> None:
    log = Log()
    log.work("scoring the pool", 48_000, 2)
    log.work("validating", 2_000, 1)
    log.progress.end()
    assert log.lines == []


def test_a_phase_without_a_count_is_logged_when_the_next_one_begins() -> None:
    log = Log()
    log.progress("reading annotations", 0, 0)
    log.clock.now = 5
    log.progress("training", 0, 100)
    assert log.lines == [(5, "reading annotations: 5 s")]


def test_the_same_phase_with_other_images_is_logged_separately() -> None:
    log = Log()
    log.work("embedding", 1_000, 3)
    log.work("embedding", 200, 4)
    assert [line for _, line in log.lines] == [
        "embedding: 1,000 images, 3 s",
        "embedding: 200 images, 4 s",
    ]


def test_the_time_left_ignores_the_pace_of_earlier_phases() -> None:
    log = Log()
    log.work("validating", 2_000, 100)
    log.work("scoring the pool", 48_000, 40, until=10)
    assert log.lines[-1][1].endswith("(25%), about 30 s left")


def test_the_time_left_of_resumed_work_ignores_what_was_done_before() -> None:
    log = Log()
    log.progress("training", 60, 100)
    log.clock.now = 10
    log.progress("training", 70, 100)
    assert log.lines == [(10, "training: 70 of 100 steps (70%), about 30 s left")]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (1_090, "18 min")]
)
def test_a_long_time_is_given_in_minutes(seconds: float, text: str) -> None:
    assert describe_time(seconds) == text


@pytest.mark.parametrize(
    ("phase", "counted"),
    [
        ("training", "10 of 40 steps"),
        ("training on 500 labels", "10 of 40 steps"),
        ("downloading CIFAR-10", "10 of 40 MB"),
        ("simulating", "10 of 40 rounds"),
        ("adapting the body", "10 of 40 s"),
        ("decoding train images", "10 of 40 images"),
    ],
)
def test_a_line_names_what_its_phase_counts(phase: str, counted: str) -> None:
    log = Log()
    log.work(phase, 40, 40, until=10)
    assert log.lines == [(10, f"{phase}: {counted} (25%), about 30 s left")]


@pytest.mark.parametrize(
    ("done", "total", "left_s"), [(0, 100, None), (25, 100, 30.0), (100, 100, 0.0), (0, 0, None)]
)
def test_the_time_left_assumes_the_pace_so_far(done: int, total: int, left_s: float | None) -> None:
    assert seconds_left(done, total, 10.0) == left_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of bars and lines alike."""
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    lines = partial(ProgressLines, clock=clock)
    monkeypatch.setattr("scripts.console.progress_bars.ProgressLines", lines)
    return clock


def score(progress: Progress, clock: Clock) -> None:
    """Score 2,500 images in 2.2 seconds, and validate for a tenth of a second."""
    progress("reading annotations", 0, 0)
    progress("scoring the pool", 0, 2_500)
    clock.now += 2.2
    progress("scoring the pool", 2_500, 2_500)
    progress("validating", 0, 10)
    clock.now += 0.1
    progress("validating", 10, 10)


def test_a_terminal_shows_a_bar_for_a_long_phase(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress_bar() as progress:
        score(progress, clock)
    shown = terminal.getvalue()
    assert "reading annotations …" in shown
    assert "scoring the pool: 100%" in shown
    assert "2500/2500" in shown
    assert "validating" not in shown


def test_the_same_phase_with_other_images_gets_another_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr("scripts.console.progress_bars.LONG_S", 0)
    with progress_bar() as progress:
        for n_images in (48_000, 200):
            progress("embedding", 0, n_images)
            progress("embedding", n_images, n_images)
    assert "48000/48000" in terminal.getvalue()
    assert "200/200" in terminal.getvalue()


def test_a_file_gets_plain_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        score(progress, clock)
    printed = capsys.readouterr()
    assert printed.err == "scoring the pool: 2,500 images, 2 s\n"
    assert printed.out == ""


def test_a_failed_phase_is_not_reported_as_finished(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with progress_bar() as progress:
            progress("scoring the pool", 0, 2_500)
            clock.now += 2.2
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert capsys.readouterr().err == ""
