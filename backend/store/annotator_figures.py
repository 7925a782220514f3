"""Define the figures of one annotator."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import FiniteFloat

from backend.store.version_meta import Probability


@dataclass(frozen=True)
class AnnotatorFigures:
    """The figures of one annotator; shares in 0..1, None if unknown."""

    annotator: int = field(metadata={"description": "the person's id in Label Studio"})
    name: str = field(metadata={"description": "the person's name in Label Studio"})
    answers: int = field(metadata={"description": "how many annotations"})
    skipped: int = field(metadata={"description": "how many images were skipped"})
    agreement: Probability | None = field(
        metadata={"description": "with the consensus, on images that others also annotated"}
    )
    quality: Probability | None = field(
        metadata={"description": "how likely an annotation is right"}
    )
    quality_low: Probability | None = field(
        metadata={"description": "lower bound of the 95 % interval of `quality`"}
    )
    quality_high: Probability | None = field(
        metadata={"description": "upper bound of that interval"}
    )
    guesses_shown: int = field(
        metadata={"description": "annotations of images that showed a guess of the model"}
    )
    guesses_taken: Probability | None = field(
        metadata={"description": "share of these guesses that were submitted as shown"}
    )
    guesses_right: Probability | None = field(
        metadata={"description": "share of these guesses that matched the consensus"}
    )
    median_seconds: FiniteFloat | None = field(
        metadata={"description": "median time for one task, in seconds"}
    )
