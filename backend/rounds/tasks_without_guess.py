"""Create and reopen the tasks of images that annotators label without the model's guess."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from backend.base.labeling import Annotation, Asked, DeletedSkip, NewTask
from backend.labelstudio import task_data
from backend.people.validation_labels import Outcome
from backend.rounds.loop import Loop
from backend.rounds.observe import read_changes
from backend.rounds.ordering import order_open_tasks, without_guess
from backend.store.version_meta import Meta

log = logging.getLogger(__name__)


def record_random(image_ids: Sequence[str], purpose: str, version: Meta | None) -> list[Asked]:
    """Return records which state that these images were queried at random, without a guess.

    `purpose` is recorded instead of a strategy: VALIDATION or ACCEPTANCE.
    """
    return [
        Asked(
            image_id=image_id,
            round=version.round if version else 0,
            strategy=purpose,
            version=version.version if version else "",
        )
        for image_id in image_ids
    ]


def task_without_guess(loop: Loop, asked: Asked, shown: str) -> NewTask:
    """Return an image's task, which does not reveal a guess."""
    data = task_data.write_asked(shown, asked, None if loop.settings.blind else "")
    return NewTask(asked.image_id, data, without_guess(asked.version) if asked.version else None)


def ask_again(loop: Loop, outcomes: Mapping[int, Outcome]) -> None:
    """Reopen tasks for more annotators, and ask a sole annotator again after a skip.

    `outcomes` maps task ids to outcomes. Label Studio never serves a task again to an annotator who
    skipped it, so the skip is recorded here and deleted in Label Studio. The caller must hold the
    push lock.
    """
    due = {task_id: outcome for task_id, outcome in outcomes.items() if outcome.must_ask}
    if not due:
        return
    for task_id, outcome in due.items():
        if outcome.reopen_for:
            loop.project.reopen(task_id, outcome.reopen_for)
        if outcome.skip is not None:
            _ask_once_more(loop, outcome.skip)
    read_changes(loop.project, loop.store)
    order_open_tasks(loop)  # Label Studio serves only tasks that have a prediction of this version
    log.info("reopened %d tasks of images that are labeled without a guess", len(due))


def _ask_once_more(loop: Loop, skip: Annotation) -> None:
    """Delete a skip in Label Studio, unless its annotator has labeled the image in the meantime."""
    now = loop.project.annotations_of(skip.image_id).get(skip.task_id, ())
    if skip.annotator is None or not any(
        a.annotation_id == skip.annotation_id and a.was_skipped for a in now
    ):
        return
    deleted = DeletedSkip(skip.annotation_id, skip.image_id, skip.annotator)
    loop.store.record_deleted_skip(deleted)
    loop.project.delete_annotation(skip.annotation_id)
