"""Read the validation labels that annotators have given, using only the project's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backend.base.classes import ClassList
from backend.base.labeling import Annotation, DeletedSkip, Task
from backend.base.settings import Settings
from backend.people.annotators import frequent_annotators
from backend.people.validation_labels import Outcome, ValidationProgress, decide_labels
from backend.rounds.classes import current_labels
from backend.store.project_record import read_record
from backend.store.project_store import ProjectStore

LATEST_ANNOTATIONS = 50  # these show who is annotating


@dataclass(frozen=True)
class ValidationReading:
    """The validation labels so far, and the data from which they were derived."""

    labels: Mapping[str, str]  # by image id; names of current classes
    progress: ValidationProgress
    tasks: Sequence[Task]
    outcomes: Mapping[int, Outcome]  # by task
    annotations: Mapping[int, Sequence[Annotation]]  # by task
    deleted_skips: Sequence[DeletedSkip]
    n_active: int  # how many people are currently annotating


NO_READING = ValidationReading({}, ValidationProgress(0, 0, 0, 0), (), {}, {}, (), 0)


def project_progress(settings: Settings, root: Path) -> ValidationProgress | None:
    """Return a project's progress in labeling validation images, or None if labels are known."""
    record = read_record(root)
    if record is None or not record.wanted_validation_labels:
        return None
    store = ProjectStore(root)
    n_wanted = record.wanted_validation_labels
    may_reopen = settings.may_reopen(is_attached=record.is_attached)
    return read_validation(store, record.class_list, n_wanted, may_reopen=may_reopen).progress


def read_validation(
    store: ProjectStore, classes: ClassList, n_wanted: int, *, may_reopen: bool = True
) -> ValidationReading:
    """Decide the validation labels from the annotations that were last read from Label Studio.

    An annotation whose label refers to none of the current classes counts as empty. `n_wanted` is
    VALIDATION_LABELS. `may_reopen` states whether tasks may be reopened for other annotators.
    """
    tasks = store.validation_tasks()
    if not tasks:
        return replace(NO_READING, progress=ValidationProgress(0, n_wanted, 0, 0))
    annotations = current_labels(store.validation_annotations(), classes)
    skips = store.deleted_skips()
    active = frequent_annotators(store.recent_annotations(LATEST_ANNOTATIONS))
    outcomes = decide_labels(
        tasks, annotations, skips, active, classes.current, may_reopen=may_reopen
    )
    labels = {task.image_id: outcomes[task.task_id].label for task in tasks}
    states = Counter(outcome.state for outcome in outcomes.values())
    return ValidationReading(
        labels={image_id: label for image_id, label in labels.items() if label is not None},
        progress=ValidationProgress(
            labeled=states["decided"],
            wanted=n_wanted,
            undecided=states["undecided"],
            pending=states["pending"],
        ),
        tasks=tasks,
        outcomes=outcomes,
        annotations=annotations,
        deleted_skips=skips,
        n_active=len(active),
    )
