"""Check by hand how a trial draws its images and compares its arms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.base.errors import SettingsError
from scripts.research.trial_free_gains import Draw, Row, claim, mirror, summarize


def test_labeled_held_out_and_unlabeled_images_are_disjoint_and_complete() -> None:
    draw = Draw.of(100, 10, 30, seed=0)
    assert [len(draw.labeled), len(draw.held_out), len(draw.unlabeled)] == [10, 30, 60]
    together = np.concatenate([draw.labeled, draw.held_out, draw.unlabeled])
    assert sorted(together.tolist()) == list(range(100))
    assert Draw.of(100, 10, 30, seed=1).labeled.tolist() != draw.labeled.tolist()


def test_a_pool_without_unlabeled_images_is_too_small() -> None:
    with pytest.raises(SettingsError, match="40 images are too few to label 10"):
        Draw.of(40, 10, 30, seed=0)


def test_mirroring_swaps_left_and_right() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    assert mirror(images)[:][..., 0].tolist() == [[[3, 0], [9, 6]]]


def row(arm: str, seed: int, accuracy: float) -> Row:
    return Row("heads", arm, 100, seed, accuracy, log_loss=1.0)


def test_differences_are_paired_by_seed_and_bold_if_their_interval_excludes_zero() -> None:
    plain = [row("head", seed, accuracy) for seed, accuracy in enumerate((0.40, 0.50, 0.60))]
    better = [row("better", seed, accuracy) for seed, accuracy in enumerate((0.41, 0.51, 0.61))]
    noisy = [row("noisy", seed, accuracy) for seed, accuracy in enumerate((0.60, 0.50, 0.40))]
    assert summarize([*plain, *better, *noisy]).splitlines() == [
        "| | 100 labels |",
        "|---|---|",
        "| head | 50.0 |",
        "| better | 51.0 (**+1.0 ± 0.0**) |",
        "| noisy | 50.0 (+0.0 ± 49.7) |",
    ]


def test_a_folder_of_other_weights_is_not_resumed(tmp_path: Path) -> None:
    claim(tmp_path, "cifar10, weights a")
    claim(tmp_path, "cifar10, weights a")
    with pytest.raises(SettingsError, match="weights a: choose another --out"):
        claim(tmp_path, "cifar10, weights b")
