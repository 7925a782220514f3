"""Record the choices made when a project is set up, and find the projects that are set up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from backend.base.classes import ClassList, append_new
from backend.base.errors import DetachedError, ModelFolderError, SettingsError
from backend.base.project_settings import ValidatedBy
from backend.base.strategy_names import StrategyName
from backend.images.validation_sample import Validation
from backend.store.files import folder_errors, lock, write_text


def _check_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) != len(classes):
        raise ValueError("a class is listed twice")
    return classes


ProjectId = Annotated[int, Field(gt=0, lt=10**18)]
Classes = Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_check_classes)]


POOL_INDEX = "pool.parquet"  # in the project's folder
RECORD = "project.json"
DETACHING = "detaching.json"  # the record of a project that is not yet detached completely
DETACHED = "detached.json"  # the record of a project that may be attached again
FORGOTTEN = "forgotten.json"  # the record of a project that was deleted in Label Studio
FORMER = (DETACHING, DETACHED, FORGOTTEN)
FIXED_POOLS = ("cifar10", "digits")


class FormerSettings(BaseModel, frozen=True):
    """The settings of a Label Studio project before Tightloop was attached to it."""

    sampling: str | None
    model_version: str
    show_collab_predictions: bool
    description: str | None


class ProjectRecord(BaseModel, frozen=True):
    """The choices made when a project was set up; `auto` settings are not resolved again."""

    project_id: ProjectId
    title: str
    label_studio_url: str
    project_created_at: str
    pool: str
    weights: str
    image_size: int = Field(64, ge=16, le=512, multiple_of=8)  # used if IMAGE_SIZE=auto
    seed: int = Field(ge=0)
    # Every class that the project has ever had, because probabilities keep a column for each class.
    # New classes go last.
    classes: Classes
    removed_classes: tuple[str, ...] = ()  # those that the label config no longer offers
    renamed_classes: tuple[tuple[str, str], ...] = ()  # former names and new names
    seed_labels: int | None = Field(None, ge=0)  # None = an earlier release did not record it
    validation: ValidatedBy | None = None  # None = an earlier release did not record it
    validation_labels: int | None = Field(None, ge=1)  # given by annotators; None = known labels
    validation_images: int | None = Field(None, ge=0)  # in the sample; None = known labels
    label_config: Literal["ours", "own"] = "ours"  # written by Tightloop or by the user
    strategy: StrategyName | None = None  # None = an earlier release did not record it
    pool_notice: str = ""
    weights_notice: str = ""
    # What detaching restores; None = Tightloop created the project and its tasks.
    attached: FormerSettings | None = None

    @property
    def is_attached(self) -> bool:
        """Return whether Tightloop was attached to this project, whose tasks belong to a team."""
        return self.attached is not None

    @property
    def class_list(self) -> ClassList:
        """Return the project's classes, as of the last reading of the label config.

        The classes are spelled as they were when they joined the project.
        """
        return self.offering(n for n in self.classes if n not in self.removed_classes)

    def offering(self, choices: Iterable[str]) -> ClassList:
        """Return the project's classes, given the choices that the label config offers."""
        offered = tuple(choices)
        return ClassList(append_new(self.classes, offered), offered, self.renamed_classes)

    @property
    def chosen_validation(self) -> Validation:
        """Return whose labels measure the project's versions, and how many annotators give."""
        return Validation(self.validation or "known", self.validation_labels or 0)

    @property
    def wanted_validation_labels(self) -> int:
        """Return how many validation labels annotators give, or 0 if the labels are known."""
        return count_wanted(self.validation_images or 0, self.validation_labels or 0)

    @property
    def may_pool_change(self) -> bool:
        """Return whether images may be added to the pool or removed from it."""
        return self.pool not in FIXED_POOLS


def count_wanted(n_sample: int, n_labels: int) -> int:
    """Return how many images in a validation sample annotators label.

    If the sample of a small pool is too small for VALIDATION_LABELS, annotators label three
    quarters of the sample. The rest replaces images that they cannot classify.
    """
    return min(n_labels, max(1, 3 * n_sample // 4)) if n_sample else 0


def project_root(model_dir: Path, project_id: int) -> Path:
    """Return the folder of a project."""
    return model_dir / f"p{project_id}"


def known_projects(model_dir: Path) -> list[int]:
    """Return the ids of all recorded projects.

    Raises ModelFolderError if `model_dir` cannot be read.
    """
    return _projects_with(RECORD, model_dir)


def pick_project(model_dir: Path, asked: int | None) -> int:
    """Return the id of the requested project, or of the only project.

    Raises SettingsError if the requested project does not exist, or if none was requested and there
    is not exactly one project.
    """
    known = known_projects(model_dir)
    if asked in known:
        return asked
    if not known:
        raise SettingsError("no project is set up yet: run `python -m scripts.setup_project`")
    if asked is None and len(known) == 1:
        return known[0]
    names = (f'{record.project_id} ("{record.title}")' for record in read_records(model_dir))
    raise SettingsError(f"choose a project with --project: {', '.join(names)}")


def write_record(root: Path, record: ProjectRecord) -> None:
    """Write a project's record, and delete the records that detaching or forgetting it left."""
    write_text(root / RECORD, record.model_dump_json(indent=2))
    with folder_errors(root):
        for name in FORMER:
            (root / name).unlink(missing_ok=True)


def change_record(
    root: Path, change: Callable[[ProjectRecord], ProjectRecord]
) -> ProjectRecord | None:
    """Change a project's record under its lock; return the new record.

    Returns None if the project is not set up.
    """
    with lock(root, "record"):
        before = read_record(root)
        if before is None:
            return None
        after = change(before)
        if after != before:
            write_record(root, after)
        return after


def read_record(root: Path) -> ProjectRecord | None:
    """Return a project's record, or None if the project is not set up.

    Raises ModelFolderError if the record is damaged.
    """
    return _read(root / RECORD)


def begin_detaching(root: Path) -> None:
    """Take a project out of the list of projects; `end_detaching` completes this."""
    _set_aside(root, DETACHING)


def forget_record(root: Path) -> None:
    """Take a project that was deleted in Label Studio out of the list of projects."""
    _set_aside(root, FORGOTTEN)


def end_detaching(root: Path) -> None:
    """Record that a project is detached completely."""
    with folder_errors(root):
        (root / DETACHING).replace(root / DETACHED)


def read_half_detached(model_dir: Path) -> list[ProjectRecord]:
    """Return the records of projects whose detaching was interrupted, in order of id."""
    ids = _projects_with(DETACHING, model_dir)
    found = (_read(project_root(model_dir, i) / DETACHING) for i in ids)
    return [record for record in found if record is not None]


def is_half_detached(root: Path) -> bool:
    """Return whether a project's detaching was interrupted."""
    return (root / DETACHING).exists()


def read_former(root: Path) -> ProjectRecord | None:
    """Return the record of a project that was forgotten or (at least partly) detached, or None."""
    return next(filter(None, (_read(root / name) for name in FORMER)), None)


def check_attached(root: Path) -> None:
    """Raise DetachedError if Tightloop was detached from a project or has forgotten the project."""
    if read_record(root) is None and read_former(root) is not None:
        number = root.name.removeprefix("p")
        was = "forgot" if (root / FORGOTTEN).exists() else "was detached from"
        raise DetachedError(f"Tightloop {was} project {number}, so nothing was changed there")


def read_records(model_dir: Path) -> list[ProjectRecord]:
    """Read all projects' records, in order of id.

    Raises ModelFolderError if a record cannot be read.
    """
    found = (read_record(project_root(model_dir, i)) for i in known_projects(model_dir))
    return [record for record in found if record is not None]


def _set_aside(root: Path, name: str) -> None:
    # Hold the lock, so that no process that is changing the record writes it again.
    with lock(root, "record"), folder_errors(root):
        (root / RECORD).replace(root / name)


def _read(path: Path) -> ProjectRecord | None:
    with folder_errors(path.parent):
        if not path.exists():
            return None
        try:
            return ProjectRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ModelFolderError(
                f"{path} is damaged ({error.error_count()} invalid fields): move it away and run "
                "`python -m scripts.setup_project` again; versions and labels are kept"
            ) from None


def _projects_with(name: str, model_dir: Path) -> list[int]:
    """Return the ids of the projects whose folder has this file."""
    with folder_errors(model_dir):
        return sorted(
            int(entry.name[1:])
            for entry in model_dir.iterdir()
            if re.fullmatch(r"p[0-9]{1,18}", entry.name) and (entry / name).exists()
        )
