"""Record what setup chose for each project, and find the projects that are set up."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from backend.base.errors import ModelFolderError, SettingsError
from backend.store.files import folder_errors, write_text
from backend.store.version_meta import Classes, ProjectId


class ProjectRecord(BaseModel, frozen=True):
    """What setup chose for a project; a choice made by `auto` is never made again."""

    project_id: ProjectId
    title: str
    label_studio_url: str
    project_created_at: str
    pool: str
    weights: str
    seed: int = Field(ge=0)
    classes: Classes
    pool_notice: str = ""
    weights_notice: str = ""


def project_root(model_dir: Path, project_id: int) -> Path:
    """Return the folder of a project."""
    return model_dir / f"p{project_id}"


def known_projects(model_dir: Path) -> list[int]:
    """Return the ids of all recorded projects.

    Raises ModelFolderError if `model_dir` cannot be read.
    """
    with folder_errors(model_dir):
        return sorted(
            int(entry.name[1:])
            for entry in model_dir.iterdir()
            if re.fullmatch(r"p[0-9]{1,18}", entry.name) and (entry / "project.json").exists()
        )


def pick_project(model_dir: Path, asked: int | None) -> int:
    """Return the requested project or the only one. Raises SettingsError unless one fits."""
    known = known_projects(model_dir)
    if asked in known:
        return asked
    if not known:
        raise SettingsError("no project is set up yet: run `python -m scripts.setup_project`")
    if asked is None and len(known) == 1:
        return known[0]
    raise SettingsError(f"choose a project with --project: {', '.join(map(str, known))}")


def write_record(root: Path, record: ProjectRecord) -> None:
    """Write a project's record, replacing any existing one."""
    write_text(root / "project.json", record.model_dump_json(indent=2))


def read_record(root: Path) -> ProjectRecord | None:
    """Return a project's record, or None before setup. Raises ModelFolderError if it is damaged."""
    path = root / "project.json"
    with folder_errors(root):
        if not path.exists():
            return None
        try:
            return ProjectRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ModelFolderError(
                f"{path} is damaged ({error.error_count()} bad fields): move it away and run "
                "`python -m scripts.setup_project` again; versions and labels are kept"
            ) from None
