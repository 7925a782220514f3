"""Consensus: several people's answers to one image in, one label per image out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Answer(NamedTuple):
    """One person's answer to one image."""

    image_id: str
    annotator: int
    label: str
    answered_at: str  # ISO 8601, so that text order is time order


def majority_vote(answers: Iterable[Answer]) -> dict[str, str]:
    """The label that most people gave each image; a tie goes to the label that was given first.

    Two answers of one person to one image are one answer, the later one.
    """
    by_image: dict[str, dict[int, str]] = {}
    for answer in sorted(answers, key=lambda a: a.answered_at):
        of_image = by_image.setdefault(answer.image_id, {})
        of_image.pop(answer.annotator, None)  # so that a changed answer counts as given now
        of_image[answer.annotator] = answer.label
    # Counter.most_common keeps the order of first encounter among equals.
    return {i: Counter(votes.values()).most_common(1)[0][0] for i, votes in by_image.items()}
