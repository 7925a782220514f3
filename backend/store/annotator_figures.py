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
    answers: int = field(metadata={"description": "how many answers"})
    skipped: int = field(metadata={"description": "how many images were skipped"})
    agreement: Probability | None = field(
        metadata={"description": "with the consensus, on images that others also answered"}
    )
    quality: Probability | None = field(metadata={"description": "how likely an answer is right"})
    quality_low: Probability | None = field(
        metadata={"description": "lower bound of its 95 % interval"}
    )
    quality_high: Probability | None = field(metadata={"description": "upper bound"})
    guesses_shown: int = field(
        metadata={"description": "answers to images that showed a guess of the model"}
    )
    guesses_taken: Probability | None = field(
        metadata={"description": "which share of these guesses was submitted as shown"}
    )
    guesses_right: Probability | None = field(
        metadata={"description": "which share of these guesses was the consensus"}
    )
    median_seconds: FiniteFloat | None = field(metadata={"description": "for one task"})
