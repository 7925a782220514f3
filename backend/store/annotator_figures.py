"""Define the statistics kept for each annotator."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import FiniteFloat

from backend.store.version_meta import Probability


@dataclass(frozen=True)
class AnnotatorFigures:
    """Statistics of one annotator; shares are in 0..1, None if unknown."""

    annotator: int = field(metadata={"description": "the person's id in Label Studio"})
    name: str = field(metadata={"description": "the person's name in Label Studio"})
    answers: int = field(metadata={"description": "number of annotations"})
    skipped: int = field(metadata={"description": "number of skipped images"})
    agreement: Probability | None = field(
        metadata={
            "description": "agreement with the consensus, on images that others also annotated"
        }
    )
    quality: Probability | None = field(
        metadata={"description": "probability that an annotation is correct"}
    )
    quality_low: Probability | None = field(
        metadata={"description": "lower bound of the 95 % interval of `quality`"}
    )
    quality_high: Probability | None = field(
        metadata={"description": "upper bound of the same interval"}
    )
    guesses_shown: int = field(
        metadata={"description": "number of annotations made while the model's guess was shown"}
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
