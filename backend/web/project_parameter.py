"""Read the project parameter of a request to the dashboard."""

from __future__ import annotations

from pathlib import Path

from flask import request
from werkzeug.exceptions import BadRequest, NotFound

from backend.store.project_record import known_projects


def requested_project() -> int | None:
    """Return the project id in the request, if any; BadRequest if it is not a number."""
    project = request.values.get("project")
    if project is None:
        return None
    if not project.isdecimal() or len(project) > 18:
        raise BadRequest("project must be a number")
    return int(project)


def required_project(model_dir: Path) -> int:
    """Return the required project id; BadRequest if it is missing, NotFound if it is unknown."""
    project_id = requested_project()
    if project_id is None:
        raise BadRequest("name a project")
    check_known(model_dir, project_id)
    return project_id


def check_known(model_dir: Path, project_id: int) -> None:
    """Raise NotFound for a project that set-up has not recorded."""
    if project_id not in known_projects(model_dir):
        raise NotFound(f"project {project_id} is not set up here")
