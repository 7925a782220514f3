"""The simulation on digits: the same figures again, resumed where it broke off, and bad input."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.images.pool import open_pool
from scripts.research.learning_curves import read_rows
from scripts.research.simulate import Plan, Run, main, pool_of, simulate


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def plan(**changes: object) -> Plan:
    fields: dict[str, object] = {
        "pool": "digits", "weights": "none", "image_size": 16, "train": "head", "seed_labels": 30,
        "rounds": 2, "batch": 10, "pool_fraction": 0.3, "duplicates": 1, "annotators": "",
        "people": 5,
    }  # fmt: skip
    return Plan(**(fields | changes))  # type: ignore[arg-type]


def run(folder: Path, data_dir: Path, strategy: str = "random", **changes: object) -> Run:
    name, _, overlap = strategy.partition("+")
    fields = plan(**changes)
    return Run(fields, name, overlap or "1", 0, folder, data_dir, "cpu", 1)  # type: ignore[arg-type]


@pytest.fixture
def command(
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run the command as from a shell; its code, its output and its errors."""
    own = {"POOL": "digits", "WEIGHTS": "none", "IMAGE_SIZE": "16", "DATA_DIR": str(data_dir)}
    for name, value in own.items():
        monkeypatch.setenv(name, value)

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["simulate", "--out", str(tmp_path), *arguments])
        try:
            code = main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run_it


def test_the_same_seed_gives_the_same_curve_and_every_batch_is_counted(
    tmp_path: Path, data_dir: Path
) -> None:
    first, second = (simulate(run(tmp_path / name, data_dir)) for name in "ab")
    assert first == second
    assert [row.labels for row in first] == [30, 40, 50]
    assert first[0].test_accuracy > 0.2  # a tenth would be chance


def test_all_strategies_that_begin_at_random_begin_with_the_same_images(
    tmp_path: Path, data_dir: Path
) -> None:
    first = [
        simulate(run(tmp_path / name, data_dir, name, seed_labels=0, rounds=1, batch=30))
        for name in ("random", "margin")
    ]
    assert first[0][0].test_accuracy == first[1][0].test_accuracy


def test_duplicates_repeat_images_and_leave_the_pool_as_large(data_dir: Path) -> None:
    whole = open_pool("digits", data_dir, seed=0)
    n_images = len(whole.image_ids)
    times = next(n for n in range(2, n_images) if n_images % n == 0)  # leaves none over
    pool, truth = pool_of(plan(pool_fraction=1.0, duplicates=times), data_dir)
    n_distinct = n_images // times
    assert len(pool.image_ids) == len(set(pool.image_ids)) == n_images
    assert np.array_equal(pool.images[:n_distinct], pool.images[n_distinct : 2 * n_distinct])
    assert pool.image_ids[n_distinct] == f"{pool.image_ids[0]}~1"
    assert truth[pool.image_ids[0]] == truth[f"{pool.image_ids[0]}~1"]


def test_seed_labels_are_drawn_from_copies_too(tmp_path: Path, data_dir: Path) -> None:
    rows = simulate(run(tmp_path, data_dir, duplicates=3, rounds=1))
    assert [row.labels for row in rows] == [30, 40]


def test_a_first_batch_of_one_class_is_followed_by_another(tmp_path: Path, data_dir: Path) -> None:
    rows = simulate(run(tmp_path, data_dir, seed_labels=0, batch=1, rounds=1))
    assert rows[0].labels >= 2


def answers_file(folder: Path, data_dir: Path, *, is_right: bool) -> Path:
    """People's answers to the digits, two to each."""
    pool, truth = pool_of(plan(), data_dir)
    path = folder / "answers.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "annotator_1", "annotator_2"])
        for image_id in pool.image_ids:
            label = truth[image_id] if is_right else str((int(truth[image_id]) + 1) % 10)
            writer.writerow([f"train/{image_id.rpartition('-')[2]}.png", label, label])
    return path


@pytest.mark.parametrize("strategy", ["random", "random+2", "random+auto"])
def test_every_answer_counts_as_one_however_many_an_image_gets(
    tmp_path: Path, data_dir: Path, strategy: str
) -> None:
    path = answers_file(tmp_path, data_dir, is_right=True)
    rows = simulate(run(tmp_path, data_dir, strategy, batch=20, annotators=str(path)))
    expected = {"random+2": [30, 40, 60, 80]}  # the first batch was asked once so far
    assert [row.labels for row in rows] == expected.get(strategy, [30, 50, 70])
    assert {row.strategy for row in rows} == {strategy}


def test_peoples_own_answers_take_the_place_of_the_truth(tmp_path: Path, data_dir: Path) -> None:
    path = answers_file(tmp_path, data_dir, is_right=False)
    honest = simulate(run(tmp_path / "a", data_dir, batch=60))
    misled = simulate(run(tmp_path / "b", data_dir, batch=60, annotators=str(path)))
    assert misled[0] == honest[0]  # the seed labels are the data set's own
    # The gate keeps the version before the wrong answers in service.
    assert misled[-1].version == "r0001" != honest[-1].version
    assert misled[-1].test_accuracy < honest[-1].test_accuracy


def test_the_command_writes_curves_table_and_picture_and_goes_on_where_it_was(
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
    assert {(row.strategy, row.repeat) for row in read_rows(tmp_path / "curves.csv")} == {
        (strategy, repeat) for strategy in ("auto", "random") for repeat in (0, 1)
    }
    assert not list(tmp_path.glob("runs/*/models"))
    code, _, errors = command(*options, "--batch", "21")
    assert code == 1
    assert "holds a simulation with other settings" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strategies", "auto,guess"), "guess is no strategy; there are auto,"),
        (("--strategies", "auto+4"), "auto+4 is no strategy"),
        (("--strategies", "auto+2"), "need --annotators"),
        (("--annotators", "no/such.csv"), "no/such.csv: no such file"),
        (("--batch", "0"), "must be 1 or more"),
        (("--pool-fraction", "2"), "must be above 0 and at most 1"),
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
