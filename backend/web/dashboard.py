"""Serve the dashboard: a page that people keep open, two buttons, GET /status and /metrics.

The page asks for itself again every two seconds, so it is rendered at most once a second, however
many people look.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from backend.base.errors import TightloopError
from backend.base.progress import unit
from backend.base.settings import Settings
from backend.queue.training_queue import TrainingQueue
from backend.web.auth import Door, answer_errors, status_of
from backend.web.backend_client import BackendClient, Login
from backend.web.control_routes import (
    asked_project,
    pressed_project,
    refuse_unknown,
    status_of_refusal,
)
from backend.web.controls import Buttons
from backend.web.curve_picture import draw_curve
from backend.web.dashboard_view import JOBS, SERVICES, curve_key, find_project, view_of
from backend.web.metrics import CONTENT_TYPE
from backend.web.status import whole_status

PAGE_LIFETIME_S = 1.0
# The page runs nothing but its own script, and no other page may frame its buttons.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
# An image of its own: matplotlib writes styles into its SVG, which the page must not have.
PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Page:
    """The dashboard of one project, rendered, and its HTTP status."""

    html: str
    status: int


class Pages:
    """Pages by project, each rendered once in PAGE_LIFETIME_S at most; while that takes long, the
    others get the last one and hold no thread that a webhook needs.
    """

    def __init__(self, render: Callable[[int | None], Page]) -> None:
        self._render = render
        self._kept: dict[int | None, tuple[float, Page]] = {}
        self._rendering = threading.Lock()

    def of(self, project_id: int | None) -> Page:
        """The page of a project that is known, or of the newest."""
        kept = self._fresh(project_id)
        if kept is not None:
            return kept
        last = self._kept.get(project_id)
        if not self._rendering.acquire(blocking=last is None):
            assert last is not None
            return last[1]
        try:
            page = self._fresh(project_id)  # somebody may have rendered it meanwhile
            if page is None:
                page = self._render(project_id)
                self._kept[project_id] = time.monotonic(), page
            return page
        finally:
            self._rendering.release()

    def forget(self) -> None:
        """Render anew: somebody has just changed something."""
        with self._rendering:
            self._kept.clear()

    def _fresh(self, project_id: int | None) -> Page | None:
        rendered_at, page = self._kept.get(project_id, (0.0, None))
        return page if time.monotonic() - rendered_at <= PAGE_LIFETIME_S else None


def make_dashboard(
    settings: Settings,
    door: Door,
    queue: TrainingQueue,
    metrics_page: Callable[[], bytes],
    buttons: Buttons,
) -> Blueprint:
    """The routes for people and their programs; `metrics_page` is what Prometheus gets."""
    routes = Blueprint("dashboard", __name__, static_folder="static", template_folder="templates")
    pages = Pages(lambda project_id: _render(settings, queue, project_id))

    @routes.after_request
    def secure(answer: Response) -> Response:
        for name, value in SECURITY_HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    @routes.get("/dashboard")
    @door.needs_reader
    def show() -> AnyResponse:
        asked = asked_project()
        try:
            refuse_unknown(settings, asked)
        except TightloopError:
            asked = None  # nobody can tell; the page says what is wrong
        page = pages.of(asked)
        answer = Response(page.html, page.status, content_type="text/html; charset=utf-8")
        answer.headers["Cache-Control"] = "no-cache"
        answer.set_etag(hashlib.sha256(page.html.encode()).hexdigest())
        return answer.make_conditional(request)

    @routes.get("/dashboard/curve.svg")
    @door.needs_reader
    def curve() -> Response:
        project = find_project(whole_status(settings, queue), asked_project())
        is_as_asked = request.args.get("v") == curve_key(project)
        drawn = draw_curve(
            project.learning_curve,
            project.outlook,
            is_dark="dark" in request.args,
            is_narrow="narrow" in request.args,
        )
        answer = Response(drawn, content_type="image/svg+xml")
        # Its address changes with what it shows, unless a version came since the page was made.
        answer.headers["Cache-Control"] = "private, max-age=3600" if is_as_asked else "no-store"
        answer.headers["Content-Security-Policy"] = PICTURE_POLICY
        return answer

    @routes.post("/dashboard/promote")
    @door.needs_operator
    def put_in_service() -> AnyResponse:
        version = request.form.get("version", "")
        return act(lambda project_id: buttons.promote(project_id, version))

    @routes.post("/dashboard/train")
    @door.needs_operator
    def start_training() -> AnyResponse:
        return act(buttons.train_now)

    def act(change: Callable[[int], object]) -> AnyResponse:
        """Change something and show the page again, with what was in the way if something was."""
        project_id = pressed_project(settings)
        try:
            change(project_id)
        except TightloopError as error:
            page = _render(settings, queue, project_id, str(error))
            return Response(page.html, status_of_refusal(error))
        pages.forget()
        return redirect(url_for("dashboard.show", project=project_id), 303)

    @routes.get("/status")
    @door.needs_reader
    def status() -> Response:
        return jsonify(whole_status(settings, queue).as_json())

    @routes.get("/metrics")
    @door.needs_reader
    def metrics() -> Response:
        return Response(metrics_page(), content_type=CONTENT_TYPE)

    return routes


def create_app(settings: Settings) -> Flask:
    """The dashboard alone, without the ML backend's routes: what a team's server publishes.

    It reads the model folder and Redis; whatever changes them is asked of the backend.
    """
    settings.require("dashboard_password", "control_secret")
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    backend = BackendClient(settings)
    buttons = Buttons(
        promote=lambda project_id, version: backend.promote(project_id, version, _person()),
        train_now=lambda project_id: backend.train_now(project_id, _person()),
    )
    app = Flask(__name__, static_folder=None)
    app.register_blueprint(
        make_dashboard(settings, Door(settings), queue, backend.metrics, buttons)
    )

    @app.get("/")
    def home() -> AnyResponse:
        return redirect(url_for("dashboard.show"))

    @app.get("/health")
    def health() -> Response:
        return jsonify(status="UP")

    answer_errors(app)
    return app


def _person() -> Login:
    """Return the login of the person who pressed a button, for the backend to check again."""
    auth = request.authorization
    return (auth.username or "", auth.password or "") if auth else ("", "")


def _render(
    settings: Settings, queue: TrainingQueue, project_id: int | None, refused: str = ""
) -> Page:
    """The page; where Redis or the model folder is away, it says that and what to do. `refused` is
    why a press was in vain.
    """
    try:
        status = whole_status(settings, queue)
        has_any = status.projects or status.unreadable
        view = vars(view_of(settings, status, project_id)) if has_any else {}
    except TightloopError as error:
        return Page(_fill(project_id, problem=str(error)), status_of(error))
    return Page(_fill(project_id, **view, refused=refused), 200)


def _fill(project_id: int | None, **view: Any) -> str:
    # Of a page that has a project, that one: another may become the newest.
    pinned = view["project"].project_id if "project" in view else project_id
    address = url_for("dashboard.show", project=pinned)
    return render_template(
        "dashboard.html",
        address=address,
        service_names=SERVICES,
        job_names=JOBS,
        unit=unit,
        **view,
    )
