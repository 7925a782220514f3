"""Evaluate a model on held-out images whose labels are known."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.base.arrays import Labels, Probs
from backend.base.errors import TooFewLabelsError
from backend.measures.calibration import log_loss

# With fewer images, the 95 % interval of the accuracy may be more than 30 points wide.
MIN_IMAGES = 30


@dataclass(frozen=True)
class Evaluation:
    """A model's accuracy and loss; the bounds are checked when meta.json is read."""

    accuracy: float = field(
        metadata={"ge": 0, "le": 1, "description": "share of the images classified correctly"}
    )
    log_loss: float = field(
        metadata={"ge": 0, "allow_inf_nan": False, "description": "mean log loss, in nats"}
    )
    images: int = field(metadata={"ge": 0, "le": 10**9, "description": "number of images"})


def evaluate(probs: Probs, labels: Labels) -> Evaluation:
    """Compare predictions with known labels. Raises TooFewLabelsError if there are no images."""
    if len(labels) == 0:
        raise TooFewLabelsError("no held-out image for measuring the model: label more images")
    return Evaluation(
        accuracy=float((probs.argmax(axis=1) == labels).mean()),
        log_loss=log_loss(probs, labels),
        images=len(labels),
    )


def describe_accuracy(validation: Evaluation | None) -> str:
    """Return a model's accuracy on the validation images as text, or why it is unknown."""
    if validation is None or validation.images == 0:
        return "accuracy unknown: no validation images"
    if validation.images < MIN_IMAGES:
        return too_few(validation.images)
    return f"{validation.accuracy:.1%} right on {validation.images:,} validation images"


def too_few(n_images: int) -> str:
    """Return the text that replaces an accuracy measured on fewer than MIN_IMAGES images."""
    return f"too few validation images to tell ({n_images})"
