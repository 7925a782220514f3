"""Choose and prepare what the dashboard's template shows of the status."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from werkzeug.exceptions import NotFound

from backend.base.errors import ModelFolderError
from backend.base.settings import Settings
from backend.measures.forecast import CurvePoint
from backend.queue.services import Service
from backend.rounds.learning_curve import outlook_sentence
from backend.store.open_image import AskedImage
from backend.web.status import sentence
from backend.web.status_model import Confusion, JobStatus, ProjectStatus, Status

MATRIX_CLASSES = 15  # a confusion of more classes is shown as a list
CONFUSED_PAIRS = 12
VERSIONS_SHOWN, OTHER_VERSIONS_SHOWN = 12, 40  # `scripts.models list` has all
HEAT_STEPS = 9
JOBS = {
    "retrain": "Training",
    "rank": "Looking what is due",
    "read": "Reading answers",
    "refit": "New head",
    "top_up": "Asking images",
    "refresh": "New order",
    "collect_reviews": "Collecting reviews",
}
SERVICES = {
    "label_studio": "Label Studio",
    "backend": "ML backend",
    "trainer": "Trainer",
    "ranker": "Ranker",
    "clock": "Clock",
}


@dataclass(frozen=True)
class VersionRow:
    """A version, and what the button beside it says."""

    point: CurvePoint
    verb: str


@dataclass(frozen=True)
class MatrixRow:
    """How the images of one true class are classified: counts, each with the step of its shade."""

    name: str
    cells: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Matrix:
    """The confusion, a row per true class."""

    classes: tuple[str, ...]
    rows: tuple[MatrixRow, ...]


@dataclass(frozen=True)
class ConfusedPair:
    """How many of the images `of` a class are taken for another one."""

    true: str
    taken_for: str
    count: int
    of: int


@dataclass(frozen=True)
class View:
    """What the template shows of a project, in the order of the page."""

    project: ProjectStatus
    projects: Sequence[ProjectStatus]
    sentence: str
    outlook_sentence: str
    services: Sequence[Service]
    unreadable: Mapping[str, str]
    curve_key: str
    jobs: Sequence[JobStatus]
    next_images: Sequence[AskedImage]
    is_blind: bool
    most_labels: int
    matrix: Matrix | None
    confused: Sequence[ConfusedPair]
    versions: Sequence[VersionRow]
    other_versions: Sequence[VersionRow]
    may_change: bool


def view_of(settings: Settings, status: Status, project_id: int | None) -> View:
    """Prepare the project that was asked for, or the newest."""
    project = find_project(status, project_id)
    versions = _newest_first(project.learning_curve)
    # A head comes with every few answers: only the one in service stands among the others.
    first = [v for v in versions if v.point.is_current or not v.point.is_head][:VERSIONS_SHOWN]
    return View(
        project=project,
        projects=status.projects,
        sentence=sentence(project),
        outlook_sentence=outlook_sentence(project.outlook) if project.outlook else "",
        services=status.services,
        unreadable=status.unreadable,
        curve_key=curve_key(project),
        jobs=[job for job in project.jobs if job.status in ("queued", "started")],
        next_images=project.next_images,
        is_blind=settings.blind,
        most_labels=max(project.labels_per_class.values(), default=0),
        matrix=_matrix(project.confusion),
        confused=_confused_pairs(project.confusion),
        versions=first,
        other_versions=[v for v in versions if v not in first][:OTHER_VERSIONS_SHOWN],
        may_change=bool(settings.dashboard_password.get_secret_value()),
    )


def find_project(status: Status, project_id: int | None) -> ProjectStatus:
    """Return the project that was asked for, or the newest that can be read."""
    projects = {project.project_id: project for project in status.projects}
    if project_id is None and not projects and status.unreadable:
        raise ModelFolderError("; ".join(status.unreadable.values()))
    if project_id is None:
        project_id = max(projects, default=None)
    if str(project_id) in status.unreadable:
        raise ModelFolderError(status.unreadable[str(project_id)])
    if project_id is None or project_id not in projects:
        raise NotFound(f"no project {project_id} is set up here")
    return projects[project_id]


def curve_key(project: ProjectStatus) -> str:
    """Identify what the picture of the learning curve shows, as part of its address."""
    shown = repr((project.learning_curve, project.outlook))
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def _newest_first(curve: Sequence[CurvePoint]) -> list[VersionRow]:
    """Versions as the table shows them: one that is older than the one in service rolls back."""
    is_older = False
    found = []
    for point in reversed(curve):
        found.append(VersionRow(point, "Roll back" if is_older else "Put in service"))
        is_older = is_older or point.is_current
    return found


def _matrix(confusion: Confusion | None) -> Matrix | None:
    if confusion is None or len(confusion.classes) > MATRIX_CLASSES:
        return None
    rows = []
    for name, counts in zip(confusion.classes, confusion.counts, strict=True):
        total = max(sum(counts), 1)
        cells = tuple((count, round(HEAT_STEPS * count / total)) for count in counts)
        rows.append(MatrixRow(name, cells))
    return Matrix(confusion.classes, tuple(rows))


def _confused_pairs(confusion: Confusion | None) -> list[ConfusedPair]:
    """Which class is most often taken for which other one."""
    if confusion is None:
        return []
    pairs = [
        ConfusedPair(true, other, count, sum(counts))
        for true, counts in zip(confusion.classes, confusion.counts, strict=True)
        for other, count in zip(confusion.classes, counts, strict=True)
        if other != true and count
    ]
    return sorted(pairs, key=lambda pair: -pair.count)[:CONFUSED_PAIRS]
