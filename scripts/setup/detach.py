"""Detach Tightloop from a Label Studio project, and restore the project's settings."""

from __future__ import annotations

from backend.base.errors import SettingsError
from backend.base.settings import Settings
from backend.labelstudio.attached_setup import AttachedSetup
from backend.labelstudio.client import find_projects
from backend.labelstudio.project_connection import address_of
from backend.store.files import lock
from backend.store.project_record import (
    ProjectRecord,
    begin_detaching,
    end_detaching,
    project_root,
    read_half_detached,
    read_record,
    read_records,
)

WAIT_FOR_PUSH_S = 600.0


def detach(settings: Settings, named: str, *, is_dry_run: bool = False) -> int:
    """Detach the attached project with this id or title, or the only one if `named` is empty.

    A rerun continues an interrupted call. Returns the project's id.
    """
    settings.require("label_studio_api_key", "webhook_secret")
    record = find_attached(settings, named)
    print("\n".join(_describe(record)))
    if is_dry_run:
        print("--dry-run: nothing was changed")
        return record.project_id
    root = project_root(settings.model_dir, record.project_id)
    with lock(root, "attach", WAIT_FOR_PUSH_S):
        put_back(settings, record)
    print(
        f"Tightloop is detached. Model versions are kept in {root}, in case you attach it again. "
        f"If .env contains POOL=labelstudio and PROJECT_ID={record.project_id}, remove both lines"
    )
    return record.project_id


def put_back(settings: Settings, record: ProjectRecord) -> None:
    """Restore a project as it was before Tightloop was attached; print what was not restored.

    The caller must hold the attach lock.
    """
    root = project_root(settings.model_dir, record.project_id)
    # Jobs that are still running find no record under these locks, and change nothing more.
    with lock(root, "push", WAIT_FOR_PUSH_S), lock(root, "review", WAIT_FOR_PUSH_S):
        if read_record(root) is not None:
            begin_detaching(root)
    for line in _restore(settings, record):
        print(f"NOTE        {line}")
    end_detaching(root)


def _restore(settings: Settings, record: ProjectRecord) -> list[str]:
    """Restore a project's settings; return a sentence for each one that was not restored."""
    url, token = settings.label_studio_url, settings.label_studio_api_key.get_secret_value()
    if record.project_id not in find_projects(url, token):
        return ["the project no longer exists in Label Studio"]
    assert record.attached is not None, "the record of an attached project"
    project = AttachedSetup(url, token, record.project_id)
    project.disconnect(address_of(settings))
    return project.restore(record.attached, is_blind=settings.blind)


def _describe(record: ProjectRecord) -> list[str]:
    """Describe what detaching changes."""
    former = record.attached
    assert former is not None, "the record of an attached project"
    shown = "shown to annotators" if former.show_collab_predictions else "hidden"
    return [
        f'"{record.title}" (project {record.project_id}) gets its former settings back',
        f"  order       {former.sampling or 'not set'}",
        f"  predictions {shown}",
        f"  version     {former.model_version or 'none'}",
        f"  description {'as before' if former.description else 'empty'}",
        "Tightloop's predictions, webhook and ML backend connection are deleted; annotations stay",
    ]


def find_attached(settings: Settings, named: str) -> ProjectRecord:
    """Return the record of an attached project, or of one whose detaching was interrupted."""
    model_dir = settings.model_dir
    attached = [record for record in read_records(model_dir) if record.is_attached]
    # If attaching again was interrupted, a project may have both records.
    found = [*{r.project_id: r for r in (*read_half_detached(model_dir), *attached)}.values()]
    if not found:
        raise SettingsError("Tightloop is attached to no project, so there is nothing to detach")
    chosen = [r for r in found if named in ("", str(r.project_id), r.title)]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(f'{record.project_id} ("{record.title}")' for record in found)
    raise SettingsError(f"choose the project to detach by its id (--detach ID): {names}")
