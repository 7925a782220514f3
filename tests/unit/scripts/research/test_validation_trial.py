"""Check by hand how a trial labels its sample and compares estimates with the accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.research.hidden_pool import HiddenPool
from scripts.research.validation_trial import (
    CROSS_VALIDATION,
    ONE,
    SEVERAL,
    STAGES,
    TRUE_LABELS,
    Estimate,
    cross_validate,
    decide,
    draw,
    label_by_several,
    run_trial,
    summarize,
)

N_IMAGES = 6000
CLASSES = 3


def hidden_pool(annotations: NDArray[np.int64] | None = None) -> HiddenPool:
    """Return images of three classes, each around a corner of its own."""
    rng = np.random.default_rng(0)
    truth = np.arange(N_IMAGES) % CLASSES
    embeddings = np.eye(CLASSES, dtype=np.float32)[truth]
    embeddings += rng.normal(scale=0.5, size=embeddings.shape).astype(np.float32)
    ids = tuple(f"i{n}" for n in range(N_IMAGES))
    return HiddenPool(ids, embeddings, truth, CLASSES, annotations)


def estimate(seed: int, method: str, share: float, accuracy: float) -> Estimate:
    return Estimate(seed, 800, method, 200, share, accuracy, 0.02, 0.01, 1.0)


@pytest.mark.parametrize(
    ("choices", "label", "people"),
    [((1, 1, 2), 1, 2), ((1, 2, 2), 2, 3), ((2, 1, 2), 2, 3), ((0, 1, 2), None, 3)],
)
def test_a_third_person_is_asked_only_if_two_differ(
    choices: tuple[int, ...], label: int | None, people: int
) -> None:
    assert decide(choices) == (label, people)


def test_undecided_images_are_replaced_by_the_next_ones() -> None:
    annotations = np.array([[0, 0, 0], [0, 1, 2], [2, 1, 2], [1, 1, 0]])
    judged = label_by_several(annotations, np.array([1, 0, 2, 3]), 2, np.array([0, 0, 1, 1]))
    assert judged.rows.tolist() == [0, 2]
    assert judged.labels.tolist() == [0, 2]
    assert judged.predicted.tolist() == [0, 1]
    assert judged.undecided == pytest.approx(1 / 3)
    assert judged.annotations == 4.0  # eight annotations for two labels


def test_a_sample_has_a_third_in_reserve_and_differs_by_seed() -> None:
    ids = [f"i{n}" for n in range(5000)]
    first, again, other = draw(ids, 0), draw(ids, 0), draw(ids, 1)
    assert len(set(first.tolist())) == 267
    assert first.tolist() == again.tolist() != other.tolist()


def test_cross_validation_judges_every_training_image_once() -> None:
    pool = hidden_pool()
    rows = np.arange(100, 200)
    judged = cross_validate(pool, rows, pool.truth[rows], 0)
    assert judged.rows.tolist() == rows.tolist()
    assert 0.7 < (judged.predicted == judged.labels).mean() < 1


def test_a_trial_without_real_annotations_has_two_estimates_at_each_stage() -> None:
    found = run_trial(hidden_pool(), 3)
    assert [(e.labels, e.method, e.images) for e in found] == [
        (240, TRUE_LABELS, 60), (240, CROSS_VALIDATION, 240),
        (800, TRUE_LABELS, 200), (800, CROSS_VALIDATION, 800),
    ]  # fmt: skip
    assert all(e.wrong == e.undecided == 0 for e in found)
    assert all(0.7 < e.accuracy < 0.95 for e in found)


def test_wrong_labels_move_the_estimate_but_not_the_accuracy() -> None:
    """The first of three people is always wrong, so the other two decide."""
    truth = np.arange(N_IMAGES) % CLASSES
    annotations = np.stack([(truth + 1) % CLASSES, truth, truth], axis=1)
    found = {(e.labels, e.method): e for e in run_trial(hidden_pool(annotations), 0)}
    for labels in STAGES:
        several, one = found[labels, SEVERAL], found[labels, ONE]
        assert several.wrong == several.undecided == 0
        assert several.estimate == found[labels, TRUE_LABELS].estimate
        assert 0.2 < one.wrong < 0.5
        assert one.estimate < several.estimate
        assert several.annotations == pytest.approx(8 / 3, abs=0.2)


def test_the_table_counts_the_intervals_that_hold_the_accuracy() -> None:
    # 95 % intervals of 100 and 140 of 200: 0.43 to 0.57 and 0.63 to 0.76
    found = [
        estimate(0, TRUE_LABELS, 0.5, 0.56), estimate(1, TRUE_LABELS, 0.7, 0.6),
        estimate(0, SEVERAL, 0.52, 0.56), estimate(1, SEVERAL, 0.72, 0.6),
    ]  # fmt: skip
    _, _, truth, several = summarize(found).splitlines()
    assert truth.startswith("| 800 labels | true labels, 200 images | 1 of 2 | +2.0 ± 101.6 | 8.0 ")
    assert several.endswith("| +2.0 ± 0.0 | 2.0% | 1.0% | 1.00 |")
