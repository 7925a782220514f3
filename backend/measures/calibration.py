"""Calibration: held-out probabilities and labels in; a temperature and calibration errors out."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from backend.base.arrays import Labels, Probs

TEMPERATURES = (0.05, 20.0)
BINS = 15


def fit_temperature(probs: Probs, labels: Labels) -> float:
    """The one number by which log-probabilities are divided so that `labels` become most likely.

    Temperature scaling (Guo et al., 2017): above 1 the model was too sure of itself. It changes no
    favourite. Raises nothing: 1.0 where there are no images.
    """
    if len(labels) == 0:
        return 1.0
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: log_loss(rescale(probs, float(np.exp(log_t))), labels),
        bounds=(low, high),
        method="bounded",
    )
    return float(np.exp(found.x))


def rescale(probs: Probs, temperature: float) -> Probs:
    """Probabilities at a temperature; a row of NaN stays one."""
    logits = np.log(np.maximum(probs, 1e-30, dtype=np.float64)) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def log_loss(probs: Probs, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    own = probs[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-7)).mean())  # one zero must not make it infinite


def expected_calibration_error(probs: Probs, labels: Labels) -> float:
    """How far confidence and accuracy lie apart, on average over images (Guo et al., 2017).

    Images fall into 15 bins of equal width by the probability of their favourite class.
    """
    if len(labels) == 0:
        return 0.0
    confidence = probs.max(axis=1).astype(np.float64)
    is_right = probs.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gap = np.bincount(bins, confidence - is_right, minlength=BINS)
    return float(np.abs(gap).sum() / len(labels))
