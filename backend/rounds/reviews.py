"""Have doubtful labels reviewed in a separate Label Studio project, and collect ground truth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from backend.base.classes import ClassList
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
from backend.rounds.task_images import show_images
from backend.store.files import lock
from backend.store.project_record import check_attached, read_record
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)

TITLE_END = ": review"


def find_label_errors(loop: Loop, progress: Progress) -> list[LikelyError]:
    """Find the labels that are most likely wrong, worst first.

    Images of an acceptance sample are left out while people label it. Otherwise, mostly labels that
    differ from the model's would be reviewed, and reviewers would see why.
    """
    read_everything_changed(loop.project, loop.store)
    reading = read_labels(loop, loop.store.annotations(), progress)
    found = likely_errors(reading.annotations, reading.probs, reading.consensus, loop.names)
    accepted = set(map(loop.pool.canonical, loop.finish_store.asked_images()))
    return [error for error in found if error.image_id not in accepted]


def find_reviews(settings: Settings, root: Path) -> LabelStudioProject | None:
    """Return the review project, or None if it was never created or has been deleted."""
    recorded_id = ProjectStore(root).facts().review_project
    if recorded_id is None:
        return None
    access = _label_studio(settings)
    review_id = labelstudio.find_project(*access, titles=[], project_id=recorded_id)
    return None if review_id is None else LabelStudioProject(*access, review_id)


def open_reviews(settings: Settings, root: Path, project: LabelStudioProject) -> LabelStudioProject:
    """Return the review project; create it if necessary. The caller must hold the review lock."""
    found = find_reviews(settings, root)
    if found is not None:
        return found
    access = _label_studio(settings)
    review_id = labelstudio.create_project(
        *access,
        title=review_title(project.title()),
        label_config=project.label_config_xml(),
        sampling=labelstudio.OLDEST_FIRST,  # tasks are created with the most doubtful labels first
    )
    ProjectStore(root).start_reviews(review_id)
    return LabelStudioProject(*access, review_id)


def review_title(title: str) -> str:
    """Return the review project's title, shortened to the length that Label Studio allows."""
    return title[: TITLE_LENGTH - len(TITLE_END)].rstrip() + TITLE_END


def push_reviews(loop: Loop, reviews: LabelingProject, errors: Sequence[LikelyError]) -> int:
    """Create review tasks for images that have none; return their number.

    The caller must hold the review lock. The tasks have no predictions, so reviewers decide without
    seeing a guess.
    """
    existing = {task.image_id for task in reviews.tasks()}
    new = [error for error in errors if error.image_id not in existing]
    shown = show_images(loop.pool, reviews, [error.image_id for error in new], loop.settings)
    return reviews.import_tasks(
        [
            NewTask(
                image_id=error.image_id,
                data=task_data.write_review(
                    shown[error.image_id], error.image_id, error.label, error.reason
                ),
            )
            for error in new
        ]
    )


def collect_reviews(root: Path, project: LabelingProject, reviews: LabelingProject) -> int:
    """Turn new and changed review annotations into ground truth in the reviewers' names.

    Returns the number of images that received ground truth. After an interruption, call again
    to collect the rest.
    """
    n_new = 0
    store = ProjectStore(root)
    with lock(root, "review"):
        check_attached(root)
        collected = store.reviewed()
        classes = _classes(root, project.label_config().choices)
        for image_id, review in _latest_reviews(reviews).items():
            label = review.label or ""
            current = classes.spell(label)
            # Do not write the ground truth again: a person may have withdrawn it.
            if collected.get(image_id) == label:
                continue
            if current is not None:
                n_new += _settle(project, image_id, current, review.annotator)
            else:
                log.warning("%s was reviewed as %s, which is no longer a class", image_id, label)
            store.record_reviewed(image_id, label)
    return n_new


def _classes(root: Path, choices: tuple[str, ...]) -> ClassList:
    record = read_record(root)
    return ClassList(choices, choices) if record is None else record.offering(choices)


def _label_studio(settings: Settings) -> tuple[str, str]:
    return settings.label_studio_url, settings.label_studio_api_key.get_secret_value()


def _latest_reviews(reviews: LabelingProject) -> dict[str, Annotation]:
    """Return the latest annotation of each image, ignoring skipped and empty annotations."""
    given = [
        a for of_task in reviews.annotations().values() for a in of_task if a.label and a.image_id
    ]
    return {a.image_id: a for a in sorted(given, key=lambda a: a.updated_at)}


def _settle(project: LabelingProject, image_id: str, label: str, reviewer: int | None) -> bool:
    """Write ground truth unless the image's task was deleted or already has this ground truth."""
    by_task = project.annotations_of(image_id)
    if not by_task:
        log.warning("%s was reviewed, but its task was deleted", image_id)
        return False
    truths = {a.label for of_task in by_task.values() for a in of_task if a.is_ground_truth}
    if truths == {label}:
        return False
    project.add_ground_truth(min(by_task), label, reviewer)
    log.info("%s: a review set the ground truth to %s", image_id, label)
    return True
