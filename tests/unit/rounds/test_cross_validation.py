"""Estimate the accuracy from the training labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.images.known_labels import true_labels
from backend.images.splits import Split
from backend.measures.evaluation import Evaluation
from backend.network import resnet
from backend.rounds.cross_validation import estimate_accuracy
from backend.rounds.loop import LabeledImages, Loop
from tests.unit.rounds.conftest import quiet, with_sample


@pytest.fixture
def people(loop: Loop, tmp_path: Path) -> Loop:
    """Return a loop with pre-trained weights, whose annotators have not labeled any image yet."""
    weights = tmp_path / "pretrained.pth"
    torch.save(resnet.build(5, None, seed=3).state_dict(), weights)
    known = loop.pool.validation
    sample = Split(known.image_ids[:120], known.images[:120])
    return with_sample(replace(loop, weights=str(weights)), sample, {})


def labels_of(loop: Loop, count: int) -> LabeledImages:
    image_ids, truth = loop.pool.image_ids[:count], true_labels(loop.pool)
    classes = np.array([loop.pool.classes.index(truth[image_id]) for image_id in image_ids])
    return LabeledImages(image_ids, classes, np.ones(count, np.float32), {}, "f")


def test_the_estimate_is_the_accuracy_on_labels_that_no_head_has_seen(people: Loop) -> None:
    labels = labels_of(people, 100)
    estimate = estimate_accuracy(people, labels, None, quiet)
    assert estimate is not None
    assert estimate.images == 100
    assert 0.3 < estimate.accuracy < 0.99  # better than chance, but unlike labels it was fitted to
    assert estimate_accuracy(people, labels, None, quiet) == estimate


def test_the_estimate_needs_two_classes(people: Loop) -> None:
    labels = labels_of(people, 10)
    same = replace(labels, classes=np.zeros(10, np.int64))
    assert estimate_accuracy(people, same, None, quiet) is None


def test_a_hundred_validation_labels_or_all_that_are_wanted_replace_the_estimate(
    people: Loop,
) -> None:
    def with_labels(count: int) -> Loop:
        sample = people.pool.sample
        labeled = with_sample(people, sample, dict.fromkeys(sample.image_ids[:count], 0))
        return replace(labeled, validation_labels=n_wanted)

    n_wanted, labels = 200, labels_of(people, 40)
    assert estimate_accuracy(with_labels(99), labels, None, quiet) is not None
    assert estimate_accuracy(with_labels(100), labels, None, quiet) is None
    n_wanted = 60
    assert estimate_accuracy(with_labels(59), labels, None, quiet) is not None
    assert estimate_accuracy(with_labels(60), labels, None, quiet) is None


def test_without_pretrained_weights_or_with_known_labels_there_is_no_estimate(
    people: Loop, loop: Loop
) -> None:
    labels = labels_of(people, 40)
    assert estimate_accuracy(replace(people, weights="none"), labels, None, quiet) is None
    assert estimate_accuracy(replace(loop, weights=people.weights), labels, None, quiet) is None


def test_labeled_images_are_embedded_only_once(
    people: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate_accuracy(people, labels_of(people, 40), None, quiet)
    n_embedded: list[int] = []
    images_of = type(people.pool).images_of

    def count(pool: object, ids: tuple[str, ...], *args: object, **options: object) -> object:
        n_embedded.append(len(ids))
        return images_of(pool, ids, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(people.pool), "images_of", count)
    estimate_accuracy(people, labels_of(people, 50), None, quiet)
    assert n_embedded == [10]


def test_the_estimate_is_made_again_with_a_quarter_more_labels_or_fewer_labels(
    people: Loop,
) -> None:
    earlier = Evaluation(accuracy=0.123, log_loss=1.0, images=40)

    def is_reused(count: int) -> bool:
        return estimate_accuracy(people, labels_of(people, count), earlier, quiet) == earlier

    assert [is_reused(count) for count in (39, 40, 49, 50)] == [False, True, True, False]
