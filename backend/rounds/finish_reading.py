"""Read how much of an acceptance sample is decided, using only the project's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.base.classes import ClassList
from backend.base.labeling import Task
from backend.base.settings import Settings
from backend.people.acceptance_labels import decide_acceptance, is_right
from backend.people.annotators import frequent_annotators
from backend.people.validation_labels import Outcome
from backend.rounds.classes import current_labels
from backend.rounds.validation_reading import LATEST_ANNOTATIONS
from backend.store.finish_store import FinishStore, FinishTry, TryState
from backend.store.project_record import read_record
from backend.store.project_store import ProjectStore


@dataclass(frozen=True)
class FinishReading:
    """The result of labeling an acceptance sample so far."""

    current: FinishTry  # the try that is asking
    n_right: int
    n_errors: int
    pending: Mapping[int, Outcome]  # by task: the images that are not decided yet
    n_open: int  # pending images that no one has annotated or skipped
    unasked: tuple[str, ...]  # images without a task, in random order

    @property
    def n_decided(self) -> int:
        """Return how many images of the sample are decided."""
        return self.n_right + self.n_errors

    @property
    def state(self) -> TryState:
        """Return whether the try is still asking, has passed or has failed."""
        if self.n_errors > self.current.allowed_errors:
            return "failed"
        return "passed" if self.n_decided == self.current.n_sample else "asking"

    @property
    def must_act(self) -> bool:
        """Return whether the try has ended, or a task must be reopened."""
        return self.state != "asking" or any(o.must_ask for o in self.pending.values())


def project_reading(settings: Settings, root: Path) -> FinishReading | None:
    """Return how far a project's acceptance sample is, or None if no sample is being labeled."""
    if (record := read_record(root)) is None:
        return None
    may_reopen = settings.may_reopen(is_attached=record.is_attached)
    return read_finish(root, record.class_list, may_reopen=may_reopen)


def read_finish(root: Path, classes: ClassList, *, may_reopen: bool) -> FinishReading | None:
    """Judge the acceptance sample by the annotations that were last read from Label Studio.

    Returns None if no sample is being labeled. The model's label is wrong if its class was removed,
    or if its image can no longer be labeled.
    """
    store = FinishStore(root)
    current = store.asking()
    if current is None:
        return None
    tasks_of = _by_image(store.sample_tasks(current.number))
    given = current_labels(store.sample_annotations(current.number), classes)
    project = ProjectStore(root)
    skips = project.deleted_skips()
    active = frequent_annotators(project.recent_annotations(LATEST_ANNOTATIONS))
    verdicts, unasked, pending = [], [], {}
    n_open = 0
    for image in store.sampled_images(current.number):
        label, tasks = classes.spell(image.label), tasks_of.get(image.image_id, ())
        if label is None or (image.is_lost and not tasks):
            verdicts.append(False)
        elif not tasks:
            unasked.append(image.image_id)
        else:
            outcome = decide_acceptance(
                tasks[0],
                [a for task in tasks for a in given.get(task.task_id, ())],
                [skip for skip in skips if skip.image_id == image.image_id],
                active,
                classes.current,
                label,
                may_reopen=may_reopen,
            )
            if (verdict := is_right(outcome, label)) is not None:
                verdicts.append(verdict)
                continue
            pending[tasks[0].task_id] = outcome
            n_open += tasks[0].is_open
    n_right = sum(verdicts)
    return FinishReading(current, n_right, len(verdicts) - n_right, pending, n_open, tuple(unasked))


def _by_image(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Group tasks by image, with annotated tasks first."""
    found: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda t: (t.is_open, t.task_id)):
        found.setdefault(task.image_id, []).append(task)
    return found
