"""Check whether Label Studio still has a project, and explain what to do if it does not."""

from __future__ import annotations

import logging

from backend.base.errors import ProjectGoneError
from backend.base.settings import Settings
from backend.labelstudio.client import find_projects
from backend.labelstudio.project import LabelStudioProject
from backend.store.project_record import ProjectRecord, known_projects
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)


def gone_notice(settings: Settings, record: ProjectRecord) -> str:
    """Return a notice that a project is gone from Label Studio and what to do, or "".

    If all of Tightloop's projects are missing, or another project has this project's id, the notice
    says that Label Studio was emptied, or that LABEL_STUDIO_URL names another server.
    """
    access = settings.label_studio_url, settings.label_studio_api_key.get_secret_value()
    created_at = record.project_created_at
    project = LabelStudioProject(*access, record.project_id, created_at=created_at)
    name = f'{record.project_id} ("{record.title}")'
    forget = f"`python -m scripts.setup_project --forget {record.project_id}`"
    another_server = (
        f"Label Studio was emptied, or LABEL_STUDIO_URL ({settings.label_studio_url}) names "
        "another server. Correct LABEL_STUDIO_URL or restore Label Studio's data, and Tightloop "
        f"continues automatically. To give up the project, run {forget}."
    )
    try:
        project.created_at()
    except ProjectGoneError as error:
        if error.is_replaced:
            return f"Label Studio has another project in place of project {name}. {another_server}"
        known, existing = known_projects(settings.model_dir), find_projects(*access)
        if not existing or (len(known) > 1 and existing.keys().isdisjoint(known)):
            return (
                f"Label Studio has no project {name}, and none of Tightloop's projects. "
                f"{another_server}"
            )
        return (
            f"Project {name} is gone from Label Studio, so Tightloop no longer works on it. If it "
            f"was deleted on purpose, run {forget}. Otherwise, restore Label Studio's data from a "
            "backup, and Tightloop continues automatically."
        )
    return ""


def record_gone(store: ProjectStore, project_id: int, gone: str) -> None:
    """Record the notice that `gone_notice` returned, and log a change once."""
    if gone == store.facts().gone:
        return
    store.record(gone=gone)
    if gone:
        log.warning("%s", gone)
    else:
        log.info("project %d is in Label Studio again", project_id)
