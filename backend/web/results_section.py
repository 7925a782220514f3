"""Serve the dashboard's section "Results": the file of labels, and labels by the model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, send_file
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from backend.base.settings import Settings
from backend.rounds.finish_progress import finish_sentence
from backend.store.exports import labels_path
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from backend.web.auth import Auth, guarded
from backend.web.backend_client import BackendClient
from backend.web.controls import LocalControls
from backend.web.payloads import requested_max_error, required_project
from backend.web.status_model import ProjectStatus

# Press a button for the requested project, and show the page again.
Press = Callable[[Callable[[int], object]], AnyResponse]


class ResultsSection:
    """The section's buttons and its download, which all need the dashboard's password."""

    def __init__(
        self, settings: Settings, auth: Auth, controls: LocalControls | BackendClient, press: Press
    ) -> None:
        self._settings = settings
        self._auth = auth
        self._controls = controls
        self._press = press

    def add_routes(self, routes: Blueprint) -> None:
        """Add the routes, each with its access check."""
        change = self._auth.check_operator
        routes.get("/dashboard/labels.csv")(guarded(self.labels, self._auth.check_login))
        routes.post("/dashboard/export")(guarded(self.export, change))
        routes.post("/dashboard/finish")(guarded(self.finish, change))

    def labels(self) -> Response:
        """Send the file of labels that was prepared last."""
        project_id = required_project(self._settings.model_dir)
        path = labels_path(project_root(self._settings.model_dir, project_id))
        if not path.is_file():
            raise NotFound('there is no labels.csv yet: press "Prepare labels.csv"')
        response = send_file(path.resolve(), "text/csv", as_attachment=True)
        response.headers["Cache-Control"] = "private, no-cache"
        return response

    def export(self) -> AnyResponse:
        """Request a file with all labels and show the page again."""
        return self._press(self._controls.export_now)

    def finish(self) -> AnyResponse:
        """Request that the model labels the rest, and show the page again."""
        max_error = requested_max_error()
        return self._press(lambda project_id: self._controls.finish_now(project_id, max_error))


def view_of_results(settings: Settings, project: ProjectStatus) -> dict[str, Any]:
    """Return the variables of the section's template."""
    root = project_root(settings.model_dir, project.project_id)
    facts = ProjectStore(root).facts()
    return {
        "labels_file": _describe_file(labels_path(root)),
        "is_exporting": facts.export_asked_at > facts.exported_at,
        "finish_sentence": _describe_finish(project),
    }


def _describe_finish(project: ProjectStatus) -> str:
    """Return a sentence that states how far the last try is, or ""."""
    sentence = finish_sentence(project.finish) if project.finish else ""
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _describe_file(path: Path) -> dict[str, Any] | None:
    """Return when the file of labels was written and its size in bytes, or None without a file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    written_at = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
    return {"written_at": written_at, "n_bytes": found.st_size}
