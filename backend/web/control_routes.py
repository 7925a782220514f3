"""Let a dashboard in another process use its buttons here.

POST /controls/promote (project, version) and /controls/train (project), as forms. Both need
CONTROL_SECRET, which proves that our dashboard is asking, and the login of the person who pressed
the button.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from backend.base.errors import TightloopError
from backend.base.settings import Settings
from backend.web.auth import Auth, guarded
from backend.web.controls import LocalControls
from backend.web.error_responses import status_of_refusal
from backend.web.project_parameter import required_project

MAX_FORM_BYTES = 10_000


class ControlRoutes:
    """The views. Every refusal is one sentence that the dashboard can show."""

    def __init__(self, settings: Settings, auth: Auth, controls: LocalControls) -> None:
        self._model_dir = settings.model_dir
        self._auth = auth
        self._controls = controls

    def blueprint(self) -> Blueprint:
        """Return the routes, each with its access checks."""
        routes = Blueprint("controls", __name__, url_prefix="/controls")
        checks = (self._auth.check_control_secret, self._auth.check_operator)
        routes.post("/promote")(guarded(self.promote, *checks))
        routes.post("/train")(guarded(self.train, *checks))
        routes.before_request(_limit_body)
        routes.register_error_handler(TightloopError, _refuse)
        return routes

    def promote(self) -> Response:
        """Put a version in service."""
        project_id = required_project(self._model_dir)
        self._controls.promote(project_id, request.form.get("version", ""))
        return jsonify(status="promoted")

    def train(self) -> Response:
        """Request training."""
        self._controls.train_now(required_project(self._model_dir))
        return jsonify(status="enqueued")


def _limit_body() -> None:
    request.max_content_length = MAX_FORM_BYTES


def _refuse(error: TightloopError) -> tuple[Response, int]:
    return jsonify(error=str(error)), status_of_refusal(error)
