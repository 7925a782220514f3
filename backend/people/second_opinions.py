"""Second opinions: which answered images another person is asked, too.

A finished task can be opened again for people who have not answered it. A new image and a second
opinion compete on ActiveLab's scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from backend.base.arrays import Probs
from backend.base.labeling import DELETED, Annotation
from backend.people.consensus import Answer, Row, active_lab

RECENT_ANSWERS = 200  # who gave one of these is expected to answer again
MAX_ANSWERS = 5
MAX_SHARE = 0.5  # of a batch: whoever has answered all that is asked again needs new images


@dataclass(frozen=True)
class Answered:
    """A task that people answered, and that nothing has settled."""

    task_id: int
    image_id: str
    n_people: int  # who have answered it
    asked: frozenset[int | None]  # people who answered or skipped it


def find_answered(
    annotations: Mapping[int, Sequence[Annotation]], image_ids: Set[str]
) -> list[Answered]:
    """The tasks that another person could be asked, oldest first, of those that ask `image_ids`."""
    found = []
    for task_id, of_task in sorted(annotations.items()):
        submitted = [a for a in of_task if not a.was_skipped]
        is_settled = any(a.is_ground_truth or a.annotator is None for a in of_task)
        is_answered = any(a.label is not None and a.image_id in image_ids for a in submitted)
        if is_answered and not is_settled and not was_answered_twice(of_task):
            n_people = len({a.annotator for a in submitted})
            asked = frozenset(a.annotator for a in of_task)
            found.append(Answered(task_id, submitted[0].image_id, n_people, asked))
    return found


def was_answered_twice(of_task: Sequence[Annotation]) -> bool:
    """Whether one person answered it more than once: Label Studio then serves it to nobody, however
    often it is opened again, because it counts answers here and people there.
    """
    submitted = [a.annotator for a in of_task if not a.was_skipped]
    return len(submitted) > len(set(submitted))


def active_annotators(annotations: Mapping[int, Sequence[Annotation]]) -> set[int]:
    """Who gave one of the last answers: those who left are not waited for, nor whoever settles
    images only.
    """
    given = sorted(
        (a for of_task in annotations.values() for a in of_task if not a.is_ground_truth),
        key=lambda a: a.updated_at,
    )
    people = [a.annotator for a in given if a.annotator not in (None, DELETED)]
    return {person for person in people[-RECENT_ANSWERS:] if person is not None}


def most_doubtful(
    answered: Sequence[Answered],
    answers: Sequence[Answer],
    probs: Mapping[str, Row],
    new_probs: Probs,
    active: Set[int],
    count: int,
) -> list[Answered]:
    """Of `count` questions those that are better spent on a second opinion than on a new image,
    where one of the `active` people has not seen it yet.

    `new_probs` are what the model thinks of the images that nobody was asked, (images, classes).
    Without any of those there are no second opinions either: a project can come to its end.
    """
    if not len(new_probs):
        return []
    may_ask = {a.image_id: a for a in answered if a.n_people < MAX_ANSWERS and active - a.asked}
    again, new = active_lab(answers, probs, new_probs)
    ranked = sorted((score, image_id) for image_id, score in again.items() if image_id in may_ask)
    cheapest = np.sort(new)[:count]
    chosen: list[Answered] = []
    for score, image_id in ranked[: int(MAX_SHARE * count)]:
        # Of the questions that are left, the best new image would be the next to go.
        n_new = count - len(chosen)
        if n_new <= len(cheapest) and score >= cheapest[n_new - 1]:
            break
        chosen.append(may_ask[image_id])
    return chosen


def too_few(answered: Sequence[Answered], n_answers: int) -> list[Answered]:
    """Those that fewer than `n_answers` people have answered."""
    return [a for a in answered if a.n_people < n_answers]
