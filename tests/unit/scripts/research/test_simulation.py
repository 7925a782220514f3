"""Simulate on digits: reproducible figures, duplicates, and a crowd's annotations."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.asking import query
from backend.images.pool import open_pool
from backend.images.validation_sample import Validation
from scripts.research.simulation import Plan, Run, pool_of, simulate
from scripts.research.trial_strategies import TRIAL_ARMS


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


def run(folder: Path, data_dir: Path, arm: str = "random", **changes: object) -> Run:
    return Run(plan(**changes), arm, 0, folder, data_dir, "cpu", 1)


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
    times = next(n for n in range(2, n_images) if n_images % n == 0)  # divides without a remainder
    pool, truth = pool_of(plan(pool_fraction=1.0, duplicates=times), data_dir)
    n_distinct = n_images // times
    assert len(pool.image_ids) == len(set(pool.image_ids)) == n_images
    assert np.array_equal(pool.images[:n_distinct], pool.images[n_distinct : 2 * n_distinct])
    assert pool.image_ids[n_distinct] == f"{pool.image_ids[0]}~1"
    assert truth[pool.image_ids[0]] == truth[f"{pool.image_ids[0]}~1"]


def test_copies_can_also_become_seed_labels(tmp_path: Path, data_dir: Path) -> None:
    rows = simulate(run(tmp_path, data_dir, duplicates=3, rounds=1))
    assert [row.labels for row in rows] == [30, 40]


def test_a_first_batch_of_one_class_is_followed_by_another(tmp_path: Path, data_dir: Path) -> None:
    rows = simulate(run(tmp_path, data_dir, seed_labels=0, batch=1, rounds=1))
    assert rows[0].labels >= 2


@pytest.mark.parametrize("arm", ["auto", "random", "random+auto"])
def test_versions_are_measured_at_exactly_the_budgets(
    tmp_path: Path, data_dir: Path, arm: str
) -> None:
    path = annotations_file(tmp_path, data_dir, is_right=True)
    annotators = str(path) if arm == "random+auto" else ""
    budgets = {"seed_labels": 0, "rounds": 0, "batch": 0, "budgets": (16, 36, 40)}
    rows = simulate(run(tmp_path, data_dir, arm, annotators=annotators, **budgets))
    # Between 16 and 36 there is one more version, at 16 x 1.5.
    assert [row.labels for row in rows] == [16, 24, 36, 40]


@pytest.mark.parametrize("arm", TRIAL_ARMS)
def test_trial_strategies_are_simulated_like_all_others(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    monkeypatch.setattr(query, "SETS", dict(query.SETS))
    monkeypatch.setattr(query, "NEED_NO_MODEL", query.NEED_NO_MODEL)
    rows = simulate(run(tmp_path, data_dir, arm, rounds=1))
    assert [(row.strategy, row.labels) for row in rows] == [(arm, 30), (arm, 40)]


def test_one_of_five_labels_is_for_validation_if_people_give_them(
    tmp_path: Path, data_dir: Path
) -> None:
    known = run(tmp_path, data_dir, seed_labels=0, batch=20)
    rows = simulate(replace(known, validation=Validation("people", 30)))
    assert [row.labels for row in rows] == [20, 40]
    assert [row.validation_images for row in rows] == [4, 8]


def annotations_file(folder: Path, data_dir: Path, *, is_right: bool) -> Path:
    """Write two annotations of each digit."""
    pool, truth = pool_of(plan(), data_dir)
    path = folder / "annotations.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "annotator_1", "annotator_2"])
        for image_id in pool.image_ids:
            label = truth[image_id] if is_right else str((int(truth[image_id]) + 1) % 10)
            writer.writerow([f"train/{image_id.rpartition('-')[2]}.png", label, label])
    return path


@pytest.mark.parametrize("strategy", ["random", "random+2", "random+auto"])
def test_every_annotation_counts_once_no_matter_how_many_an_image_has(
    tmp_path: Path, data_dir: Path, strategy: str
) -> None:
    path = annotations_file(tmp_path, data_dir, is_right=True)
    # Smaller batches would grow to five images for each of the five people.
    rows = simulate(run(tmp_path, data_dir, strategy, batch=60, annotators=str(path)))
    expected = {"random+2": [30, 60, 120, 180]}  # at first, each image has only one annotation
    assert [row.labels for row in rows] == expected.get(strategy, [30, 90, 150])
    assert {row.strategy for row in rows} == {strategy}


def test_real_annotations_take_the_place_of_the_truth(tmp_path: Path, data_dir: Path) -> None:
    path = annotations_file(tmp_path, data_dir, is_right=False)
    honest = simulate(run(tmp_path / "a", data_dir, batch=60))
    misled = simulate(run(tmp_path / "b", data_dir, batch=60, annotators=str(path)))
    assert misled[0] == honest[0]  # the seed labels are the data set's own
    # The gate keeps the version before the wrong annotations in service.
    assert misled[-1].version == "r0001" != honest[-1].version
    assert misled[-1].test_accuracy < honest[-1].test_accuracy
