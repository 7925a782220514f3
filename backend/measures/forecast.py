"""Forecast what more labels should gain from the learning curve so far, and score past forecasts.

Accuracy follows a law `a - b * labels ** -c` with 0 <= b and a <= 1 (Cortes et al., 1993; Figueroa
et al., 2012). Three numbers are too many for a short curve, so c comes from a few values, a and b
are closed-form least squares, and the laws are averaged by how likely they make the curve.

All points must be measured on the same images: an error that they share is then part of a, and
what is left is far smaller than two independent binomial errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

Floats = NDArray[np.float64]

INTERVAL = 0.9
# Two label counts fit any a and b exactly: the third is the first that can contradict them.
MIN_COUNTS = 3
EXPONENTS = (0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
# A version's error: this share is new with every training (seed, order), the rest comes from its
# labels, and two versions have as much of that in common as of their labels.
FRESH = (0.05, 0.3)
SHRINKS = 0.25  # errors shrink as labels ** -SHRINKS, so later points weigh more
# Before it is seen, the scatter is taken for that of the images, with the weight of so many points.
PRIOR_POINTS = 4


@dataclass(frozen=True)
class CurvePoint:
    """One version on the learning curve: what it learned from, and what that brought."""

    version: str = field(metadata={"description": "its name"})
    made_at: str = field(metadata={"description": "when it was made"})
    labels: int = field(metadata={"description": "how many labels it learned from"})  # at least 1
    accuracy: float = field(
        metadata={"description": "share of the validation images it gets right"}
    )
    low: float = field(metadata={"description": "lower bound of its 95 % interval (Wilson)"})
    high: float = field(metadata={"description": "upper bound"})
    # Of all points the same, so GET /status tells it once, with the version in service.
    images: int = field(metadata={"exclude": True})
    test_accuracy: float | None = field(
        default=None, metadata={"description": "the same share of the test images"}
    )
    is_head: bool = field(
        default=False, metadata={"description": "whether only its last layer is new"}
    )
    is_current: bool = field(default=False, metadata={"description": "whether it is in service"})
    refused: str | None = field(
        default=None, metadata={"description": "why it was not promoted automatically"}
    )
    is_pruned: bool = field(
        default=False,
        metadata={
            "description": "whether its weights were deleted (`KEEP_VERSIONS`), so that it cannot "
            "be promoted"
        },
    )


@dataclass(frozen=True)
class TrackRecord:
    """What became of the forecasts from one version to the next."""

    forecasts: int = field(metadata={"description": "how many forecasts can be checked by now"})
    inside: int = field(metadata={"description": "how many intervals held the measured gain"})
    mean_error: float = field(
        metadata={"description": "mean absolute error of the gain; 0 without forecasts"}
    )


@dataclass(frozen=True)
class Forecast:
    """What a version with more labels should gain over the last one, both measured."""

    more_labels: int = field(metadata={"description": "this many more labels …"})
    gain: float = field(metadata={"description": "… should gain this much accuracy"})
    low: float = field(metadata={"description": "lower bound of the gain's 90 % interval"})
    high: float = field(metadata={"description": "upper bound"})
    past: TrackRecord = field(metadata={"description": "how earlier forecasts did"})


def forecast(curve: Sequence[CurvePoint], more_labels: int) -> Forecast | None:
    """Forecast the version after `more_labels`; None under three different label counts."""
    gain = _forecast_gain(curve, more_labels)
    return None if gain is None else Forecast(more_labels, *gain, track_record(curve))


def _forecast_gain(
    curve: Sequence[CurvePoint], more_labels: int
) -> tuple[float, float, float] | None:
    """The expected gain and the bounds of its interval, all in accuracy."""
    if len({point.labels for point in curve}) < MIN_COUNTS:
        return None
    now = curve[-1]
    counts = np.array([point.labels for point in curve] + [now.labels + more_labels])
    accuracy = np.array([point.accuracy for point in curve])
    right = (now.accuracy * now.images + 1) / (now.images + 2)  # all right must not mean no scatter
    scatter = right * (1 - right) / now.images
    laws = [
        _fit(np.log(counts / now.labels), accuracy, scatter, exponent, fresh)
        for exponent in EXPONENTS
        for fresh in FRESH
    ]
    log_evidence, gains, spreads = np.array(laws).T
    bounds = -now.accuracy, 1 - now.accuracy
    gains = np.clip(gains, *bounds)  # a law may pass 1, a measurement cannot
    weights = np.exp(log_evidence - log_evidence.max())
    weights /= weights.sum()

    freedom = _freedom(len(curve))
    tail = (1 - INTERVAL) / 2
    low, high = (_quantile(q, weights, gains, spreads, freedom) for q in (tail, 1 - tail))
    low, high = np.clip([low, high], *bounds).tolist()
    return float(weights @ gains), low, high


def track_record(curve: Sequence[CurvePoint]) -> TrackRecord:
    """Forecast every version that has more labels than the one before it, and compare."""
    inside, errors = 0, []
    for known, (now, then) in enumerate(pairwise(curve), start=1):
        said = _forecast_gain(curve[:known], then.labels - now.labels)
        if said is None or then.labels <= now.labels:
            continue
        expected, low, high = said
        gain = then.accuracy - now.accuracy
        inside += low <= gain <= high
        errors.append(abs(expected - gain))
    return TrackRecord(len(errors), inside, float(np.mean(errors)) if errors else 0.0)


def _freedom(points: int) -> int:
    """Degrees of freedom: a and b cost two."""
    return PRIOR_POINTS + points - 2


def _fit(
    steps: Floats, accuracy: Floats, scatter: float, exponent: float, fresh: float
) -> tuple[float, float, float]:
    """One law: log evidence up to a constant, expected gain, and the scale of its Student t.

    `steps` are log label counts relative to now, the forecast's last. Generalised least squares
    with a conjugate prior on the scatter; the forecast also follows the last points' errors, as
    far as the next version has them in common (universal kriging).
    """
    shared = np.exp(-np.abs(steps[:, None] - steps))
    covariance = (1 - fresh) * shared + fresh * np.eye(len(steps))
    covariance *= np.exp(-SHRINKS * (steps[:, None] + steps))
    design = np.column_stack([np.ones_like(steps), -np.exp(-exponent * steps)])

    root = np.linalg.cholesky(covariance[:-1, :-1])
    known = np.column_stack([design[:-1], accuracy, covariance[:-1, -1]])
    whitened = solve_triangular(root, known, lower=True)
    basis, measured, ahead = whitened[:, :2], whitened[:, 2], whitened[:, 3]
    precision, moment = basis.T @ basis, basis.T @ measured
    a, b = np.linalg.solve(precision, moment)
    if b < 0:
        a, b = moment[0] / precision[0, 0], 0.0

    residual = measured - basis @ (a, b)
    freedom = _freedom(len(accuracy))
    squares = PRIOR_POINTS * scatter + residual @ residual
    variance = squares / freedom
    parameters = np.linalg.inv(precision)
    # Not held at a <= 1, where it would fit badly and forecast too little: as likely as a <= 1 is.
    is_possible = stdtr(freedom, (1 - a) / np.sqrt(parameters[0, 0] * variance))
    # Flat in accuracy now and its slope, a - b and b * c: laws that agree here and now are equals.
    log_evidence = (
        np.log(exponent)
        - np.log(np.diag(root)).sum()
        - np.log(np.linalg.det(precision)) / 2
        - np.log(squares) * freedom / 2
        + np.log(max(is_possible, 1e-9))
    )
    gain = design[-1] @ (a, b) + ahead @ residual - accuracy[-1]
    unsure = design[-1] - basis.T @ ahead
    variance *= covariance[-1, -1] - ahead @ ahead + unsure @ parameters @ unsure
    return log_evidence, gain, np.sqrt(variance)


def _quantile(q: float, weights: Floats, centers: Floats, spreads: Floats, freedom: int) -> float:
    """Of a mixture of Student t: it lies between the quantiles of its parts."""
    parts = centers + spreads * stdtrit(freedom, q)

    def off(x: float) -> float:
        return float(weights @ stdtr(freedom, (x - centers) / spreads) - q)

    return float(brentq(off, parts.min() - 1e-9, parts.max() + 1e-9))
