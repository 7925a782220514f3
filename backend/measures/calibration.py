"""Calibrate a model's confidence by temperature scaling, and measure how well it is calibrated."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from backend.base.arrays import Labels, Probs

TEMPERATURES = (0.05, 20.0)
BINS = 15


def fit_temperature(probs: Probs, labels: Labels) -> float:
    """Return the temperature that makes the held-out `labels` most likely, or 1.0 if none exist.

    Temperature scaling (Guo et al., 2017) divides the log-probabilities by the temperature. A
    temperature above 1 means that the model was overconfident. The predicted class never changes.
    """
    if len(labels) == 0:
        return 1.0
    from scipy.optimize import minimize_scalar  # a slow import that only new versions need

    found = minimize_scalar(
        lambda log_t: log_loss(rescale(probs, float(np.exp(log_t))), labels),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
    )
    return float(np.exp(found.x))


def rescale(probs: Probs, temperature: float) -> Probs:
    """Return the probabilities rescaled by a temperature; a row of NaN stays NaN."""
    logits = np.log(np.maximum(probs, 1e-30, dtype=np.float64)) / temperature
    return softmax(logits, axis=1).astype(np.float32)


def log_loss(probs: Probs, labels: Labels) -> float:
    """Return the mean negative log-likelihood of the labels, in nats."""
    own = probs[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(own, 1e-7)).mean())  # log(0) would be infinite


def expected_calibration_error(probs: Probs, labels: Labels) -> float:
    """Return the mean gap between confidence and accuracy, 0..1 (Guo et al., 2017).

    Images are grouped into 15 bins of equal width by the probability of their predicted class.
    """
    if len(labels) == 0:
        return 0.0
    confidence = probs.max(axis=1).astype(np.float64)
    is_right = probs.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gap = np.bincount(bins, confidence - is_right, minlength=BINS)
    return float(np.abs(gap).sum() / len(labels))
