"""Test temperatures and calibration errors that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from backend.base.arrays import Labels, Probs
from backend.measures.calibration import (
    expected_calibration_error,
    fit_temperature,
    log_loss,
    rescale,
)


def sure(confidence: float, n: int, n_right: int) -> tuple[Probs, Labels]:
    """Make `n` images with the same confidence in class 0 of two, and `n_right` of them in it."""
    probs = np.tile(np.array([confidence, 1 - confidence], np.float32), (n, 1))
    return probs, np.array([0] * n_right + [1] * (n - n_right))


def test_the_temperature_makes_confidence_equal_accuracy() -> None:
    probs, labels = sure(0.98, 10, 7)
    temperature = fit_temperature(probs, labels)
    # The log-odds of 0.98 over those of 0.7.
    assert temperature == pytest.approx(np.log(0.98 / 0.02) / np.log(0.7 / 0.3), rel=1e-3)
    assert rescale(probs, temperature)[0, 0] == pytest.approx(0.7, abs=1e-3)


def test_an_underconfident_model_gets_a_temperature_below_one() -> None:
    assert fit_temperature(*sure(0.6, 10, 9)) < 1


def test_a_temperature_keeps_the_predicted_class_and_rows_sum_to_one() -> None:
    probs = np.random.default_rng(0).dirichlet(np.full(10, 0.3), 200).astype(np.float32)
    for temperature in (0.1, 1.0, 7.0):
        scaled = rescale(probs, temperature)
        assert (scaled.argmax(axis=1) == probs.argmax(axis=1)).all()
        np.testing.assert_allclose(scaled.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rescale(probs, 1.0), probs, atol=1e-6)


def test_the_fitted_temperature_reduces_loss_and_error() -> None:
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.full(10, 0.1), 300).astype(np.float32)
    labels = rng.integers(0, 10, 300)
    scaled = rescale(probs, fit_temperature(probs, labels))
    assert log_loss(scaled, labels) < log_loss(probs, labels)
    assert expected_calibration_error(scaled, labels) < expected_calibration_error(probs, labels)


def test_a_certain_but_wrong_model_keeps_a_finite_loss() -> None:
    probs = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    labels = np.array([0, 1])
    assert np.isfinite(rescale(probs, fit_temperature(probs, labels))).all()
    assert np.isfinite(log_loss(probs, labels))


def test_a_row_of_nan_stays_nan() -> None:
    probs = np.array([[np.nan, np.nan], [0.5, 0.5]], np.float32)
    assert np.isnan(rescale(probs, 2.0)).tolist() == [[True, True], [False, False]]


def test_the_calibration_error_weighs_each_bins_gap_by_its_images() -> None:
    off, its_labels = sure(0.9, 10, 7)  # by 0.2
    exact, other_labels = sure(0.6, 30, 18)
    error = expected_calibration_error(
        np.vstack([off, exact]), np.concatenate([its_labels, other_labels])
    )
    assert error == pytest.approx(0.2 * 10 / 40)


def test_without_images_the_error_is_zero_and_the_temperature_one() -> None:
    none = np.empty((0, 3), np.float32), np.empty(0, np.int64)
    assert (expected_calibration_error(*none), fit_temperature(*none)) == (0.0, 1.0)
