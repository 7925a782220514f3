"""Evaluate a model: what its predictions are worth on held-out images whose labels are known."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.base.arrays import Labels, Probs
from backend.base.errors import TooFewLabelsError
from backend.measures.calibration import log_loss


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth; the bounds are checked where one is read from meta.json."""

    accuracy: float = field(
        metadata={"ge": 0, "le": 1, "description": "share of the images that it gets right"}
    )
    log_loss: float = field(
        metadata={"ge": 0, "allow_inf_nan": False, "description": "mean log loss, in nats"}
    )
    images: int = field(metadata={"ge": 0, "le": 10**9, "description": "on how many images"})


def evaluate(probs: Probs, labels: Labels) -> Evaluation:
    """Measure predictions on images whose labels are known; TooFewLabelsError without any."""
    if len(labels) == 0:
        raise TooFewLabelsError("no held-out image to measure the model on: label more images")
    return Evaluation(
        accuracy=float((probs.argmax(axis=1) == labels).mean()),
        log_loss=log_loss(probs, labels),
        images=len(labels),
    )
