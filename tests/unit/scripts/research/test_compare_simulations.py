"""Compare simulations with and without adapting over several pools: the report and the picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.base.command_line import run
from scripts.research.compare_simulations import main
from scripts.research.learning_curves import Row, write_rows

BUDGETS = (10, 1000)
Runs = list[tuple[float, ...]]


def save(folder: Path, auto: Runs, random: Runs, **plan: Any) -> str:
    """Save a simulation: for each strategy one run per seed, with an accuracy per budget."""
    rows = [
        Row(strategy, repeat, number + 1, labels, accuracy, accuracy, 2000, 0.02, "r1")
        for strategy, runs in (("auto", auto), ("random", random))
        for repeat, of_run in enumerate(runs)
        for number, (labels, accuracy) in enumerate(zip(BUDGETS, of_run, strict=True))
    ]
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"budgets": BUDGETS, **plan}))
    write_rows(folder / "curves.csv", rows)
    return str(folder)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run_it(*arguments: str) -> tuple[int, str, str]:
        options = ["compare_simulations", "--out", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr(sys, "argv", options)
        with pytest.raises(SystemExit) as end:
            run(main)
        return int(end.value.code or 0), *capsys.readouterr()

    return run_it


def test_a_strategy_is_compared_with_random_selection_on_either_body(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    plain = save(tmp_path / "a", [(0.2, 0.6), (0.2, 0.6)], [(0.2, 0.5), (0.2, 0.5)])
    adapted = save(tmp_path / "b", [(0.5, 0.6), (0.5, 0.6)], [(0.4, 0.6), (0.4, 0.6)])
    worse = save(tmp_path / "c", [(0.1, 0.5), (0.1, 0.5)], [(0.2, 0.5), (0.2, 0.5)])
    code, printed, errors = command(
        "--pool", "photos", adapted, plain, "--pool", "digits", worse, plain
    )
    assert code == 0, errors
    assert "for all 8 comparisons" in printed
    assert "| photos | 10 | **+10.0 ± 0.0** | **+30.0 ± 0.0** |" in printed
    assert "| photos | 1,000 | +0.0 ± 0.0 | **+10.0 ± 0.0** |" in printed
    assert "| digits | 10 | **-10.0 ± 0.0** | **-10.0 ± 0.0** |" in printed
    assert "| digits | 1,000 | +0.0 ± 0.0 | +0.0 ± 0.0 |" in printed
    assert "significantly worse than random at 2 of 8 comparisons" in printed
    # From 10 labels to 1,000, auto rises from 50 % to 60 %; the plain random runs end at 50 %.
    assert "photos, on the adapted body:\n\n- auto needs 1% (1% to 1%) of the labels" in printed
    assert (tmp_path / "out/compared.md").read_text() in printed
    assert "<svg" in (tmp_path / "out/curves.svg").read_text()


def test_p_values_are_corrected_for_the_comparisons_of_all_pools(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """Gains of 4, 5 and 6 points: t = 5 / (1 / 3 ** 0.5) = 8.7, so p = 0.013 with two degrees."""
    random: Runs = [(0.4, 0.4)] * 3
    plain = save(tmp_path / "a", random, random)
    adapted = save(tmp_path / "b", [(0.44, 0.41), (0.45, 0.42), (0.46, 0.43)], random)
    _, printed, _ = command("--pool", "photos", adapted, plain)
    assert "| photos | 10 | +5.0 ± 2.5 | +5.0 ± 2.5 |" in printed  # 0.013 x 4 is above 0.05


SAME: Runs = [(0.4, 0.4)]


@pytest.mark.parametrize(
    ("adapted", "plain", "message"),
    [
        ({"budgets": (10, 100)}, {}, "differ in budgets"),
        ({"budgets": ()}, {"budgets": ()}, "complete its simulation, with --budgets"),
        ({"pool": "digits"}, {}, "differ in pool"),
        ({"weights": "none", "train": "full"}, {}, "differ in weights, train"),
    ],
)
def test_simulations_of_different_things_are_refused(
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
    adapted: dict[str, Any],
    plain: dict[str, Any],
    message: str,
) -> None:
    folders = [
        save(tmp_path / name, SAME, SAME, **plan) for name, plan in (("b", adapted), ("a", plain))
    ]
    code, _, errors = command("--pool", "photos", *folders)
    assert code != 0
    assert message in errors


def test_simulations_with_different_seeds_are_refused(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    two, three = save(tmp_path / "b", SAME * 2, SAME * 2), save(tmp_path / "a", SAME * 3, SAME * 3)
    code, _, errors = command("--pool", "photos", two, three)
    assert code != 0
    assert "different seeds (2 and 3)" in errors


def test_a_strategy_that_was_not_simulated_is_refused(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    folders = [save(tmp_path / name, SAME, SAME) for name in ("b", "a")]
    code, _, errors = command("--strategy", "margin", "--pool", "photos", *folders)
    assert code != 0
    assert "no run with margin, only with auto, random" in errors


def test_a_folder_without_a_simulation_is_refused(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, errors = command("--pool", "photos", str(tmp_path), str(tmp_path))
    assert code != 0
    assert "is not the folder of a simulation" in errors
