"""Export a project's labels to a file or a folder, including the latest annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.base.errors import ExportError, LabelConfigError, LabelStudioError, SettingsError
from backend.base.labeling import LabelConfig
from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.images.pool import Pool, open_pool
from backend.labelstudio.attached_project import open_project
from backend.labelstudio.task_source import TaskSource
from backend.results.label_files import LABEL_STUDIO_SUFFIX, WRITERS, write_csv, write_tasks
from backend.results.label_folders import write_folders
from backend.results.label_rows import LabelReading, read_label_rows
from backend.results.label_sources import open_sources
from backend.results.output import new_file, new_folder
from backend.rounds.classes import follow_classes
from backend.rounds.observe import read_everything_changed
from backend.store.project_record import POOL_INDEX, project_root, read_record
from backend.store.project_store import ProjectStore

FILE_IN_FOLDER = "labels.csv"


@dataclass(frozen=True)
class Exported:
    """The labels that an export wrote, and what it had to leave out."""

    n_labels: Counter[str]  # by `labeled_by`
    left_out: dict[str, int]  # annotations that could not be used, by reason
    missing: Mapping[str, str]  # why images could not be copied, by path or URL
    read_at: float  # when annotations were last read, in seconds since the epoch
    problem: str  # why the latest annotations are missing, or ""
    model_problem: str  # why there are no predictions by the version in service, or ""


def export_file(
    settings: Settings, project_id: int, path: Path, *, is_forced: bool, progress: Progress
) -> Exported:
    """Write the labels to a file, whose suffix decides the format. Raises ExportError."""
    suffix = path.suffix.lower()
    if suffix not in (*WRITERS, LABEL_STUDIO_SUFFIX):
        known = ", ".join(WRITERS)
        raise ExportError(
            f"{path}: the name must end in {known}, or {LABEL_STUDIO_SUFFIX} for tasks that Label "
            "Studio can import; to write a folder, add --layout folder"
        )
    with new_file(path, is_forced=is_forced) as draft:
        config, problem = _read_label_studio(settings, project_id, progress)
        reading = _read_rows(settings, project_id, progress)
        progress("writing labels", 0, 0)
        if suffix != LABEL_STUDIO_SUFFIX:
            WRITERS[suffix](draft, reading.rows)
        elif config is None:
            raise ExportError(f"tasks for Label Studio need the project's label config: {problem}")
        else:
            write_tasks(draft, reading.rows, config)
    return _summarize(settings, project_id, reading, problem)


def export_folder(
    settings: Settings,
    project_id: int,
    path: Path,
    *,
    is_forced: bool,
    has_copies: bool,
    progress: Progress,
) -> Exported:
    """Write a folder with the labels as CSV, and the images in one folder per split and class.

    An image becomes a link to its file. It becomes a copy if `has_copies` is set, or if its file is
    not on this machine. Raises ExportError.
    """
    with new_folder(path, is_forced=is_forced) as draft:
        _, problem = _read_label_studio(settings, project_id, progress)
        reading = _read_rows(settings, project_id, progress)
        write_csv(draft / FILE_IN_FOLDER, reading.rows)
        pool = _open_pool(settings, project_id, progress)
        missing = write_folders(draft, reading.rows, pool, has_copies=has_copies, progress=progress)
    return _summarize(settings, project_id, reading, problem, missing)


def _read_label_studio(
    settings: Settings, project_id: int, progress: Progress
) -> tuple[LabelConfig | None, str]:
    """Read the latest annotations, classes and emails; return the label config and "".

    If Label Studio cannot be read, returns None and the reason.
    """
    root = project_root(settings.model_dir, project_id)
    store = ProjectStore(root)
    progress("reading annotations", 0, 0)
    try:
        project = open_project(settings, project_id)
        read_everything_changed(project, store)
        config = project.label_config()
        emails = project.annotator_emails()
    except (LabelStudioError, LabelConfigError) as error:
        return None, str(error)
    follow_classes(root, config.choices)
    if emails != store.facts().emails:
        store.record(emails=emails)
    return config, ""


def _read_rows(settings: Settings, project_id: int, progress: Progress) -> LabelReading:
    progress("finding one label per image", 0, 0)
    with open_sources(settings, project_root(settings.model_dir, project_id)) as sources:
        return read_label_rows(sources)


def _open_pool(settings: Settings, project_id: int, progress: Progress) -> Pool:
    """Open the pool without looking for new images."""
    root = project_root(settings.model_dir, project_id)
    record = read_record(root)
    if record is None:
        raise SettingsError(f"project {project_id} is not set up")
    return open_pool(
        record.pool,
        settings.data_dir,
        seed=record.seed,
        validation=record.chosen_validation,
        index=root / POOL_INDEX,
        source=TaskSource(settings, project_id) if record.is_attached else None,
        classes=record.classes,
        image_size=record.image_size,
        image_hosts=settings.image_hosts,
        rescan=False,
        budget_s=0.0,
        max_pixels=settings.max_image_pixels,
        progress=progress,
    )


def _summarize(
    settings: Settings,
    project_id: int,
    reading: LabelReading,
    problem: str,
    missing: Mapping[str, str] = {},
) -> Exported:
    facts = ProjectStore(project_root(settings.model_dir, project_id)).facts()
    return Exported(
        n_labels=Counter(row.labeled_by for row in reading.rows),
        left_out=reading.left_out,
        missing=missing,
        read_at=facts.read_at,
        problem=problem,
        model_problem=reading.model_problem,
    )
