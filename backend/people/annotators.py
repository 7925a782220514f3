"""Find who is currently annotating, and whether a task can be given to another annotator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from backend.base.labeling import DELETED, Annotation

RECENT_ANNOTATIONS = 200  # anyone who made one of these is expected to continue


def has_duplicate_annotations(of_task: Sequence[Annotation]) -> bool:
    """Return whether anyone annotated the task more than once.

    Label Studio then offers the task to no one, even if the task is reopened, because it compares
    the number of annotations with the requested number of annotators.
    """
    submitted = [a.annotator for a in of_task if not a.was_skipped]
    return len(submitted) > len(set(submitted))


def active_annotators(annotations: Mapping[int, Sequence[Annotation]]) -> set[int]:
    """Return the annotators who made the latest annotations.

    This excludes annotators who have left, people who only set ground truths, and annotators whose
    annotations were imported.
    """
    given = sorted(
        (a for of_task in annotations.values() for a in of_task),
        key=lambda a: a.updated_at,
    )
    given = [a for a in given if not (a.is_ground_truth or a.is_imported)]
    people = [a.annotator for a in given if a.annotator not in (None, DELETED)]
    return {person for person in people[-RECENT_ANNOTATIONS:] if person is not None}


def people_at_work(last_annotated_s: Mapping[int, float], within_s: float) -> set[int]:
    """Return the people who annotated at most `within_s` seconds before the latest annotation.

    `last_annotated_s` contains the time of each person's latest annotation. Times are compared with
    the latest annotation, not with the present, so that a break of all annotators changes nothing.
    """
    latest_s = max(last_annotated_s.values(), default=0.0)
    return {person for person, at_s in last_annotated_s.items() if at_s >= latest_s - within_s}


def frequent_annotators(annotations: Mapping[int, Sequence[Annotation]]) -> set[int]:
    """Return the people who gave a fair part of these annotations, which are all by people.

    If n people annotated, a fair part is 1 / (4 n) of all annotations. Therefore, no one waits for
    the answer of a colleague who only tried out a task.
    """
    given = Counter(a.annotator for of_task in annotations.values() for a in of_task)
    least = given.total() / (4 * max(1, len(given)))
    return {person for person, count in given.items() if person is not None and count >= least}
