"""Select and prepare the parts of the status that the dashboard's template shows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from werkzeug.exceptions import NotFound

from backend.base.errors import ModelFolderError
from backend.base.settings import Settings
from backend.measures.forecast import CurvePoint
from backend.rounds.learning_curve import outlook_sentence
from backend.web.status import sentence
from backend.web.status_model import Confusion, ProjectStatus, Status

MATRIX_CLASSES = 15  # with more classes, the confusion is shown as a list
CONFUSED_PAIRS = 12
VERSIONS_SHOWN, OTHER_VERSIONS_SHOWN = 12, 40  # `scripts.models list` shows all
JOBS = {
    "retrain": "Training",
    "rank": "Checking what is due",
    "read": "Reading annotations",
    "refit": "Fitting a new head",
    "top_up": "Adding tasks",
    "refresh": "Reordering tasks",
    "collect_reviews": "Collecting reviews",
}
SERVICES = {
    "label_studio": "Label Studio",
    "backend": "ML backend",
    "trainer": "Trainer",
    "ranker": "Ranker",
    "clock": "Clock",
}


def view_of(settings: Settings, status: Status, project_id: int | None) -> dict[str, Any]:
    """Return the template's variables for the requested project, or for the newest project."""
    project = find_project(status, project_id)
    versions = _newest_first(project.learning_curve)
    # New heads come every few labels: list only the head in service with the full versions.
    first = [(p, verb) for p, verb in versions if p.is_current or not p.is_head][:VERSIONS_SHOWN]
    confusion = project.confusion
    return {
        "project": project,
        "projects": status.projects,
        "sentence": sentence(project),
        "outlook_sentence": outlook_sentence(project.outlook) if project.outlook else "",
        "services": status.services,
        "unreadable": status.unreadable,
        "curve_key": curve_key(project),
        "jobs": [job for job in project.jobs if job.status in ("queued", "started")],
        "next_images": project.next_images,
        "is_blind": settings.blind,
        "most_labels": max(project.labels_per_class.values(), default=0),
        "matrix": confusion if confusion and len(confusion.classes) <= MATRIX_CLASSES else None,
        "confused": _confused_pairs(confusion) if confusion else [],
        "versions": first,
        "other_versions": [v for v in versions if v not in first][:OTHER_VERSIONS_SHOWN],
        "may_change": bool(settings.dashboard_password.get_secret_value()),
    }


def find_project(status: Status, project_id: int | None) -> ProjectStatus:
    """Return the requested project, or the newest readable project."""
    projects = {project.project_id: project for project in status.projects}
    if project_id is None and not projects and status.unreadable:
        raise ModelFolderError("; ".join(status.unreadable.values()))
    if project_id is None:
        project_id = max(projects, default=None)
    if str(project_id) in status.unreadable:
        raise ModelFolderError(status.unreadable[str(project_id)])
    if project_id is None or project_id not in projects:
        raise NotFound(f"project {project_id} is not set up here")
    return projects[project_id]


def curve_key(project: ProjectStatus) -> str:
    """Return a key for the content of the learning curve's picture, as part of its address."""
    shown = repr((project.learning_curve, project.outlook))
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def _newest_first(curve: Sequence[CurvePoint]) -> list[tuple[CurvePoint, str]]:
    """Return each version with the text of its button: promoting an older one rolls back."""
    is_older = False
    versions = []
    for point in reversed(curve):
        versions.append((point, "Roll back" if is_older else "Put in service"))
        is_older = is_older or point.is_current
    return versions


def _confused_pairs(confusion: Confusion) -> list[tuple[str, str, int, int]]:
    """Return the pairs of classes confused most often: true, predicted, count, images of true."""
    pairs = [
        (true, predicted, count, sum(counts))
        for true, counts in zip(confusion.classes, confusion.counts, strict=True)
        for predicted, count in zip(confusion.classes, counts, strict=True)
        if predicted != true and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:CONFUSED_PAIRS]
