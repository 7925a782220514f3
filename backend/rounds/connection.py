"""Restore the connection between Label Studio and the backend after a person has changed it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backend.base.errors import LabelStudioError
from backend.base.settings import Settings
from backend.labelstudio.project_connection import Address, ProjectConnection
from backend.store.files import lock
from backend.store.project_record import check_attached
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)

RESTORE_EVERY_S = 86_400.0  # if a part is changed again sooner, it is left alone
COMMAND = "`python -m scripts.setup_project`"


@dataclass(frozen=True)
class Part:
    """One of the two parts of the connection."""

    name: str
    restored_at: Literal["webhook_restored_at", "backend_restored_at"]  # the name of the fact
    effect: str  # what does not work without this part
    fault: str  # what is wrong with this part, or ""
    restore: Callable[[], bool]


def follow_connection(
    root: Path, project: ProjectConnection, settings: Settings, address: Address, now: float
) -> None:
    """Restore the webhook and the ML backend connection if a person changed or deleted them.

    Each is restored at most once a day. If it is changed again sooner, it is left alone, and a
    notice says so. Nothing is done before set-up has connected the project to this address. Call
    this only while the backend responds. Raises LabelStudioError if Label Studio does not list the
    connections, and ModelFolderError if set-up is connecting the project at this moment.
    """
    with lock(root, "attach", wait_s=0.0):
        check_attached(root)
        store = ProjectStore(root)
        parts = _parts(project, settings, address)
        if not any(part.fault for part in parts):
            _record(store, project.project_id, "", connected_to=address.url)
        elif store.facts().connected_to == address.url:
            problems = [
                _restore(store, project.project_id, part, now) for part in parts if part.fault
            ]
            _record(store, project.project_id, " ".join(filter(None, problems)))


def _parts(project: ProjectConnection, settings: Settings, address: Address) -> tuple[Part, Part]:
    """Return both parts, each with its fault. This sends one request for each."""
    hook_url = f"{address.url}/webhook"
    webhook = Part(
        name="webhook",
        restored_at="webhook_restored_at",
        effect=f"Tightloop notices annotations only every {settings.reconcile_every_s:.0f} seconds",
        fault=project.webhook_fault(hook_url, address.secret),
        restore=lambda: project.connect_webhook(hook_url, address.secret),
    )
    backend = Part(
        name="ML backend connection",
        restored_at="backend_restored_at",
        effect="“Start Training” and “Retrieve Predictions” in Label Studio may not work",
        fault=project.backend_fault(address.url, address.user),
        restore=lambda: project.connect_backend(address.url, address.user, address.password),
    )
    return webhook, backend


def _restore(store: ProjectStore, project_id: int, part: Part, now: float) -> str:
    """Restore a part unless this was done recently; return what remains wrong, or ""."""
    what = f"The project's {part.name} in Label Studio {part.fault}"
    until_then = f"Until it is restored, {part.effect}. To restore it, run {COMMAND}."
    restored_at = getattr(store.facts(), part.restored_at)
    if restored_at > 0.0 and now < restored_at + RESTORE_EVERY_S:
        return f"{what}, although Tightloop restored it less than a day ago. {until_then}"
    try:
        part.restore()
    except LabelStudioError as error:
        return f"{what}, and Tightloop cannot restore it ({error}). {until_then}"
    store.record(**{part.restored_at: now})
    log.warning(
        "project %d: the %s %s, so Tightloop restored it", project_id, part.name, part.fault
    )
    return ""


def _record(store: ProjectStore, project_id: int, problem: str, **facts: str) -> None:
    """Record what is wrong with the connection, and log a change."""
    before = store.facts()
    found = {"connection_problem": problem, **facts}
    if changed := {name: value for name, value in found.items() if value != getattr(before, name)}:
        store.record(**changed)
    if problem and problem != before.connection_problem:
        log.warning("project %d: %s", project_id, problem)
    elif before.connection_problem and not problem:
        log.info("project %d: the connection to Label Studio is restored", project_id)
