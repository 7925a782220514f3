"""Take a project that was deleted in Label Studio out of the list of projects."""

from __future__ import annotations

from backend.base.errors import SettingsError
from backend.base.settings import Settings
from backend.rounds.gone_project import gone_notice
from backend.store.files import lock
from backend.store.project_record import (
    ProjectRecord,
    forget_record,
    known_projects,
    project_root,
    read_former,
    read_record,
)
from scripts.setup.consent import Consent, has_consent

WAIT_FOR_PUSH_S = 600.0


def forget(settings: Settings, project_id: int, consent: Consent) -> int:
    """Forget a project that Label Studio no longer has, unless the user declines; return its id.

    All files are kept. Raises SettingsError if Label Studio still has the project.
    """
    settings.require("label_studio_api_key")
    root = project_root(settings.model_dir, project_id)
    record = read_record(root)
    if record is None:
        if read_former(root) is None:
            raise SettingsError(_unknown(settings, project_id))
        print(f"Tightloop no longer works on project {project_id}. Its files are kept in {root}")
        return project_id
    if not gone_notice(settings, record):
        raise SettingsError(_still_exists(record))
    print(
        f'"{record.title}" (project {project_id}) no longer exists in Label Studio\n'
        "Tightloop will no longer list it; its model versions, records and labels are kept in "
        f"{root}"
    )
    if not has_consent(consent, "Forget this project?"):
        return project_id
    # After this, jobs that are still running take these locks, find no record, and change nothing.
    with lock(root, "push", WAIT_FOR_PUSH_S), lock(root, "review", WAIT_FOR_PUSH_S):
        forget_record(root)
    print(f"project {project_id} is forgotten. You may move or delete {root}")
    if settings.project_id == project_id:
        print(f"Remove POOL=labelstudio and PROJECT_ID={project_id} from .env")
    return project_id


def _unknown(settings: Settings, project_id: int) -> str:
    known = ", ".join(map(str, known_projects(settings.model_dir))) or "none"
    return f"Tightloop has no project {project_id}. Its projects: {known}"


def _still_exists(record: ProjectRecord) -> str:
    number = record.project_id
    how = (
        f"run `python -m scripts.setup_project --detach {number}`, which restores its settings"
        if record.is_attached
        else "delete it in Label Studio first, under Settings > Danger Zone. This also deletes its "
        "annotations, so export them first"
    )
    return (
        f'project {number} ("{record.title}") still exists in Label Studio, so it was not '
        f"forgotten. To make Tightloop stop working on it, {how}"
    )
