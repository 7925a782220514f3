"""Run the simulation's command on digits: what it writes, how it resumes, and bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.base.command_line import run
from scripts.research.learning_curves import Row, read_rows
from scripts.research.simulate import main


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def command(
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run the command as from a shell; return its exit code, output and errors."""
    own = {"POOL": "digits", "WEIGHTS": "none", "IMAGE_SIZE": "16", "DATA_DIR": str(data_dir)}
    for name, value in own.items():
        monkeypatch.setenv(name, value)

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["simulate", "--out", str(tmp_path), *arguments])
        with pytest.raises(SystemExit) as end:
            run(main)
        return int(end.value.code or 0), *capsys.readouterr()

    return run_it


def test_the_command_writes_curves_table_and_picture_and_resumes(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    options = ("--strategies", "auto,random+1", "--seed-labels", "30", "--rounds", "1",
               "--batch", "20", "--pool-fraction", "0.3")  # fmt: skip
    code, printed, errors = command(*options, "--repeats", "1", "--jobs", "1")
    assert code == 0, errors
    for name in ("curves.csv", "summary.md", "curves.png", "curves.svg", "plan.json"):
        assert (tmp_path / name).stat().st_size
    assert "| labels | auto | random |" in printed
    before = (tmp_path / "runs/auto-0/finished.csv").stat().st_mtime_ns
    code, _, errors = command(*options, "--repeats", "2", "--jobs", "2")
    assert code == 0, errors
    assert (tmp_path / "runs/auto-0/finished.csv").stat().st_mtime_ns == before
    assert {(row.strategy, row.repeat) for row in read_rows(tmp_path / "curves.csv", Row)} == {
        (strategy, repeat) for strategy in ("auto", "random") for repeat in (0, 1)
    }
    assert not list(tmp_path.glob("runs/*/models"))
    code, _, errors = command(*options, "--batch", "21")
    assert code == 1
    assert "contains a simulation with other settings" in errors


def test_all_runs_start_from_one_adapted_body_and_another_simulation_can_use_it(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    options = ("--strategies", "random", "--budgets", "10,15", "--repeats", "1", "--jobs", "1",
               "--pool-fraction", "0.3")  # fmt: skip
    code, printed, errors = command(*options, "--adapt", "0.001")
    assert code == 0, errors
    assert (
        "no seed labels, 2 versions up to 15 labels, 1 paired seeds, heads on one body" in printed
    )
    assert (tmp_path / "adapted" / "body.safetensors").exists()
    reference = str(tmp_path / "curves.csv")
    other = ("--out", str(tmp_path / "b"), "--adapt-from", str(tmp_path), "--reference", reference)
    code, printed, errors = command(*options, *other)
    assert code == 0, errors
    assert read_rows(tmp_path / "b/curves.csv", Row) == read_rows(tmp_path / "curves.csv", Row)
    assert "random needs 100% (100% to 100%) of the labels for the " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strategies", "auto,guess"), "guess is not a strategy; choose from auto,"),
        (("--strategies", "auto+4"), "auto+4 is not a strategy"),
        (("--strategies", "auto+2"), "require --annotators"),
        (("--annotators", "no/such.csv"), "no/such.csv: no such file"),
        (("--batch", "0"), "must be 1 or more"),
        (("--budgets", "10,5"), "must be ascending numbers"),
        (("--adapt", "0"), "must be greater than 0 and at most 1440"),
        (("--adapt-from", "no/such"), "is not the folder of a simulation"),
        (("--reference", "no/such.csv"), "--reference no/such.csv cannot be used"),
        (("--pool-fraction", "2"), "must be greater than 0 and at most 1"),
        (("--seed-labels", "99999"), "the pool has only"),
    ],
)
def test_bad_input_is_one_sentence(
    command: Callable[..., tuple[int, str, str]], arguments: tuple[str, str], message: str
) -> None:
    code, _, errors = command("--rounds", "1", "--repeats", "1", *arguments)
    assert code != 0
    assert message in errors
    assert "Traceback" not in errors
