"""Report restarts from the event listener of a local stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.local.folder import StackFolder
from scripts.local.watch import report


@pytest.mark.parametrize(
    ("from_state", "tries", "reported"),
    [
        ("STOPPED", 0, ""),  # the program's first start
        ("EXITED", 0, "trainer died and was started again"),
        ("BACKOFF", 4, ""),
        ("BACKOFF", 5, "trainer keeps dying: each further try waits a second longer"),
        ("BACKOFF", 6, ""),
    ],
)
def test_a_dead_program_is_reported_once_with_the_end_of_its_log(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    from_state: str,
    tries: int,
    reported: str,
) -> None:
    folder = StackFolder(tmp_path)
    folder.log("trainer").parent.mkdir()
    folder.log("trainer").write_text("out of memory\n")
    event = {"processname": "trainer", "from_state": from_state, "tries": str(tries)}
    report(folder, event)
    printed, errors = capsys.readouterr()
    assert printed == ""  # standard output is the channel to supervisord
    assert reported in errors
    assert bool(errors) == bool(reported)
    assert ("  | out of memory" in errors) == bool(reported)
