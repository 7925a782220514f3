"""Run trials in processes, and stop so that the command can be resumed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from scripts.research.trials import run_resumable, run_trials


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Handle signals as a new process does, and put the handlers of other tests back."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # RQ's workers leave theirs behind
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def square(seed: int) -> int:
    return seed**2


def test_each_seed_has_its_result_in_order() -> None:
    assert list(run_trials(square, [3, 1, 2], jobs=2)) == [9, 1, 4]


def test_work_that_ends_gives_the_exit_code_0() -> None:
    assert run_resumable(lambda: None) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_work_says_how_to_resume(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_resumable(lambda: os.kill(os.getpid(), number)) == 130
    assert capsys.readouterr().err == "\nstopped: rerun the same command to resume\n"
