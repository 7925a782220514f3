"""Record the open images for display outside Label Studio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.people.consensus import Row
from backend.rounds.loop import Loop
from backend.store.project_rows import OpenImage

GUESSES_SHOWN = 3


def likeliest(probs: Row, names: Sequence[str]) -> list[tuple[str, float]]:
    """Return the GUESSES_SHOWN most probable classes, each with its probability."""
    rows = np.argsort(-probs, kind="stable")[:GUESSES_SHOWN]
    return [(names[row], float(probs[row])) for row in rows]


def show_open(
    loop: Loop,
    image_id: str,
    probs: Row | None,
    confidence: np.float32,
    *,
    awaits_second_opinion: bool = False,
) -> OpenImage:
    """Return an open image with its picture and the model's guesses."""
    return OpenImage(
        image_id=image_id,
        confidence=float(confidence),
        guesses=() if probs is None else tuple(likeliest(probs, loop.names)),
        is_again=awaits_second_opinion,
        picture=loop.pool.thumbnail(image_id),
    )


def record_open_images(loop: Loop, read_at: float, images: Sequence[OpenImage]) -> None:
    """Record the open images in the order of asking; the last entry for an image wins."""
    newest = {image.image_id: image for image in images}.values()
    loop.store.record_open_images(read_at, sorted(newest, key=lambda i: i.confidence))
