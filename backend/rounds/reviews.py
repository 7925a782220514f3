"""Reviews: doubtful labels go into a Label Studio project of their own; what is answered there
comes back as ground truth.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from backend.base.labeling import Annotation, LabelingProject, NewTask
from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.labelstudio import client as labelstudio
from backend.labelstudio import task_data
from backend.labelstudio.client import TITLE_LENGTH
from backend.labelstudio.project import LabelStudioProject
from backend.people.label_errors import LikelyError, likely_errors
from backend.rounds.labels import read_labels
from backend.rounds.loop import Loop
from backend.rounds.observe import read_everything_changed
from backend.store.locks import lock
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)

TITLE_END = ": review"


def find_label_errors(loop: Loop, progress: Progress) -> list[LikelyError]:
    """The labels that are most likely wrong, worst first."""
    read_everything_changed(loop.project, loop.store)
    reading = read_labels(loop, loop.store.annotations(), progress)
    return likely_errors(reading.answers, reading.probs, reading.consensus, loop.names)


def find_reviews(settings: Settings, root: Path) -> LabelStudioProject | None:
    """The review project, or None where there is none, or none any more."""
    recorded_id = ProjectStore(root).facts().review_project
    if recorded_id is None:
        return None
    door = _label_studio(settings)
    review_id = labelstudio.find_project(*door, titles=[], project_id=recorded_id)
    return None if review_id is None else LabelStudioProject(*door, review_id)


def open_reviews(settings: Settings, root: Path, project: LabelStudioProject) -> LabelStudioProject:
    """The review project, made where there is none; hold the review lock."""
    found = find_reviews(settings, root)
    if found is not None:
        return found
    door = _label_studio(settings)
    review_id = labelstudio.create_project(
        *door,
        title=review_title(project.title()),
        label_config=project.label_config_xml(),
        sampling=labelstudio.OLDEST_FIRST,  # as they were pushed: worst first
    )
    ProjectStore(root).start_reviews(review_id)
    return LabelStudioProject(*door, review_id)


def review_title(title: str) -> str:
    """The review project's title, no longer than Label Studio allows."""
    return title[: TITLE_LENGTH - len(TITLE_END)].rstrip() + TITLE_END


def push_reviews(loop: Loop, reviews: LabelingProject, errors: Sequence[LikelyError]) -> int:
    """Make review tasks of images that are in none yet; their number comes back. Hold the review
    lock.

    They carry no prediction: whoever reviews shall look without a hint.
    """
    there = {task.image_id for task in reviews.tasks()}
    return reviews.import_tasks(
        [
            NewTask(
                image_id=error.image_id,
                data=task_data.write_review(
                    loop.pool.data_uri(error.image_id), error.image_id, error.label, error.reason
                ),
            )
            for error in errors
            if error.image_id not in there
        ]
    )


def collect_reviews(root: Path, project: LabelingProject, reviews: LabelingProject) -> int:
    """Make ground truth, in the reviewers' names, of what was answered or changed in the reviews
    since the last call; how many images got one.

    Dying half-way is fine: the next call goes on, and finds what is ground truth already.
    """
    n_new = 0
    store = ProjectStore(root)
    with lock(root, "review"):
        collected = store.reviewed()
        choices = project.label_config().choices
        for image_id, answer in _last_answers(reviews).items():
            label = answer.label or ""
            # What was collected is not written again: people may have taken it back since.
            if collected.get(image_id) == label:
                continue
            if label in choices:
                n_new += _settle(project, image_id, label, answer.annotator)
            else:
                log.warning("%s was reviewed as %s, which is no class any more", image_id, label)
            store.record_reviewed(image_id, label)
    return n_new


def _label_studio(settings: Settings) -> tuple[str, str]:
    return settings.label_studio_url, settings.label_studio_api_key.get_secret_value()


def _last_answers(reviews: LabelingProject) -> dict[str, Annotation]:
    """The last answer to each image; skipped and empty ones are none."""
    given = [
        a for of_task in reviews.annotations().values() for a in of_task if a.label and a.image_id
    ]
    return {a.image_id: a for a in sorted(given, key=lambda a: a.updated_at)}


def _settle(project: LabelingProject, image_id: str, label: str, reviewer: int | None) -> bool:
    """Write a ground truth, unless the image's task is gone or has this one."""
    by_task = project.annotations_of(image_id)
    if not by_task:
        log.warning("%s was reviewed, and its task is gone: nothing to settle", image_id)
        return False
    truths = {a.label for of_task in by_task.values() for a in of_task if a.is_ground_truth}
    if truths == {label}:
        return False
    project.add_ground_truth(min(by_task), label, reviewer)
    log.info("%s is %s: settled by a review", image_id, label)
    return True
