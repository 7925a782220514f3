"""Let a dashboard in another process press its buttons here.

POST /controls/promote (project, version) and /controls/train (project), as forms. Both need
CONTROL_SECRET, which proves that our dashboard asks, and the login of the person who pressed.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import BadRequest, NotFound

from backend.base.errors import NoModelError, TightloopError
from backend.base.settings import Settings
from backend.store import registry
from backend.web.auth import Door, status_of
from backend.web.controls import Buttons

MAX_FORM_BYTES = 10_000


def make_control_routes(settings: Settings, door: Door, buttons: Buttons) -> Blueprint:
    """Return the routes, which answer every refusal with a sentence for the page."""
    routes = Blueprint("controls", __name__, url_prefix="/controls")

    @routes.post("/promote")
    @door.needs_control_secret
    @door.needs_operator
    def promote() -> Response:
        project_id = pressed_project(settings)
        buttons.promote(project_id, request.form.get("version", ""))
        return jsonify(status="promoted")

    @routes.post("/train")
    @door.needs_control_secret
    @door.needs_operator
    def train() -> Response:
        buttons.train_now(pressed_project(settings))
        return jsonify(status="enqueued")

    @routes.before_request
    def limit() -> None:
        request.max_content_length = MAX_FORM_BYTES

    @routes.errorhandler(TightloopError)
    def refuse(error: TightloopError) -> tuple[Response, int]:
        return jsonify(error=str(error)), status_of_refusal(error)

    return routes


def asked_project() -> int | None:
    """Return the project that the request names, if any; BadRequest if that is no number."""
    asked = request.values.get("project")
    if asked is None:
        return None
    if not asked.isdecimal() or len(asked) > 18:
        raise BadRequest("project must be a number")
    return int(asked)


def pressed_project(settings: Settings) -> int:
    """Return the project whose button was pressed; BadRequest or NotFound if there is none."""
    project_id = asked_project()
    if project_id is None:
        raise BadRequest("say which project")
    refuse_unknown(settings, project_id)
    return project_id


def refuse_unknown(settings: Settings, project_id: int | None) -> None:
    """NotFound for a project that set-up has not recorded."""
    if project_id is not None and project_id not in registry.known_projects(settings.model_dir):
        raise NotFound(f"no project {project_id} is set up here")


def status_of_refusal(error: TightloopError) -> int:
    """Return the HTTP status of a press in vain: a version that is not there is 404."""
    return 404 if isinstance(error, NoModelError) else status_of(error)
