"""Test accuracy and log loss on a few images that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from backend.base.errors import TooFewLabelsError
from backend.measures.evaluation import Evaluation, describe_accuracy, evaluate


def test_accuracy_and_log_loss_can_be_checked_by_hand() -> None:
    probs = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]], np.float32)
    found = evaluate(probs, np.array([0, 2, 2]))
    assert found.accuracy == 2 / 3
    assert found.log_loss == pytest.approx((np.log(2) + np.log(4) + np.log(1)) / 3)
    assert found.images == 3


def test_an_impossible_class_costs_much_but_not_infinitely_much() -> None:
    assert 10 < evaluate(np.array([[1.0, 0.0]], np.float32), np.array([1])).log_loss < 20


def test_no_held_out_images_are_an_error_and_not_an_accuracy_of_zero() -> None:
    with pytest.raises(TooFewLabelsError, match="no held-out image"):
        evaluate(np.empty((0, 3), np.float32), np.empty(0, np.int64))


def test_an_accuracy_on_fewer_than_30_images_is_not_shown() -> None:
    def described(images: int) -> str:
        return describe_accuracy(Evaluation(accuracy=1.0, log_loss=0.1, images=images))

    assert described(6) == "too few validation images to tell (6)"
    assert described(29) == "too few validation images to tell (29)"
    assert described(30) == "100.0% right on 30 validation images"
    assert describe_accuracy(None) == "accuracy unknown: no validation images"
