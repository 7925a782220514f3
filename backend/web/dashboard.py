"""Serve the dashboard: a page with buttons, GET /status and /metrics.

An open page refreshes itself every two seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from backend.base.errors import ModelFolderError, TightloopError
from backend.base.progress import describe_time, unit
from backend.base.settings import Settings
from backend.measures.evaluation import MIN_IMAGES
from backend.measures.forecast import CurvePoint
from backend.queue.training_queue import TrainingQueue
from backend.rounds.accuracy import (
    describe_measured,
    enough_labels,
    estimate_sentence,
    outlook_sentence,
)
from backend.rounds.annotation_use import use_sentence
from backend.web.auth import Auth, guarded
from backend.web.backend_client import BackendClient
from backend.web.controls import LocalControls
from backend.web.curve_picture import draw_curve
from backend.web.error_responses import register_error_handlers, status_of, status_of_refusal
from backend.web.metrics import CONTENT_TYPE
from backend.web.page_cache import Page, PageCache
from backend.web.payloads import check_known, requested_project, required_project
from backend.web.results_section import ResultsSection, view_of_results
from backend.web.status import sentence, whole_status
from backend.web.status_model import Confusion, ProjectStatus, Status

# The page runs only its own script, and no other page may embed it to trick users into pressing
# buttons.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
# The curve is a separate image because matplotlib embeds styles, which the page's policy forbids.
PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
MATRIX_CLASSES = 15  # with more classes, confusions are shown as a list
CONFUSED_PAIRS = 12
VERSIONS_SHOWN, OTHER_VERSIONS_SHOWN = 12, 40  # `scripts.models list` shows all
JOBS = {
    "retrain": "Training",
    "adapt": "Adapting the body",
    "rescan": "Looking for new images",
    "rank": "Checking what is due",
    "read": "Reading annotations",
    "refit": "Fitting a new head",
    "top_up": "Adding tasks",
    "refresh": "Reordering tasks",
    "finish": "Checking what the model can label",
    "export": "Preparing labels.csv",
    "collect_reviews": "Collecting reviews",
}
SERVICES = {
    "label_studio": "Label Studio",
    "backend": "ML backend",
    "trainer": "Trainer",
    "ranker": "Ranker",
    "clock": "Clock",
}


class Dashboard:
    """The dashboard's views: pages for people, and data for programs."""

    def __init__(
        self,
        settings: Settings,
        queue: TrainingQueue,
        auth: Auth,
        controls: LocalControls | BackendClient,
        read_metrics: Callable[[], bytes],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._auth = auth
        self._controls = controls
        self._read_metrics = read_metrics
        self._pages = PageCache(self._render)
        self._results = ResultsSection(settings, auth, controls, self._change)

    def blueprint(self) -> Blueprint:
        """Return the routes, each with its access checks."""
        routes = Blueprint(
            "dashboard", __name__, static_folder="static", template_folder="templates"
        )
        routes.after_request(_add_security_headers)
        read, change = self._auth.check_reader, self._auth.check_operator
        routes.get("/dashboard")(guarded(self.show, read))
        routes.get("/dashboard/curve.svg")(guarded(self.curve, read))
        routes.get("/status")(guarded(self.status, read))
        routes.get("/metrics")(guarded(self.metrics, read))
        routes.post("/dashboard/promote")(guarded(self.promote, change))
        routes.post("/dashboard/train")(guarded(self.train, change))
        routes.post("/dashboard/rescan")(guarded(self.rescan, change))
        self._results.add_routes(routes)
        return routes

    def show(self) -> AnyResponse:
        """Show the page of the requested project, or of the newest project."""
        project_id = requested_project()
        try:
            if project_id is not None:
                check_known(self._settings.model_dir, project_id)
        except TightloopError:
            project_id = None  # the page shows what is wrong
        page = self._pages.page(project_id)
        response = Response(page.html, page.status, content_type="text/html; charset=utf-8")
        response.headers["Cache-Control"] = "no-cache"
        response.set_etag(hashlib.sha256(page.html.encode()).hexdigest())
        return response.make_conditional(request)

    def curve(self) -> Response:
        """Draw the learning curve.

        Browsers may cache the image if the key in its address is current.
        """
        project = _find_project(whole_status(self._settings, self._queue), requested_project())
        is_as_requested = request.args.get("v") == _curve_key(project)
        drawn = draw_curve(
            project.learning_curve,
            project.outlook,
            is_dark="dark" in request.args,
            is_narrow="narrow" in request.args,
        )
        response = Response(drawn, content_type="image/svg+xml")
        # A version may have been added since the page was rendered.
        response.headers["Cache-Control"] = (
            "private, max-age=3600" if is_as_requested else "no-store"
        )
        response.headers["Content-Security-Policy"] = PICTURE_POLICY
        return response

    def status(self) -> Response:
        """Return the status of everything as JSON."""
        return jsonify(whole_status(self._settings, self._queue).as_json())

    def metrics(self) -> Response:
        """Return the metrics in the Prometheus text format."""
        return Response(self._read_metrics(), content_type=CONTENT_TYPE)

    def promote(self) -> AnyResponse:
        """Put a version in service and show the page again."""
        version = request.form.get("version", "")
        return self._change(lambda project_id: self._controls.promote(project_id, version))

    def train(self) -> AnyResponse:
        """Request training and show the page again."""
        return self._change(self._controls.train_now)

    def rescan(self) -> AnyResponse:
        """Request a search for new images and show the page again."""
        return self._change(self._controls.rescan_now)

    def _change(self, change: Callable[[int], object]) -> AnyResponse:
        project_id = required_project(self._settings.model_dir)
        try:
            change(project_id)
        except TightloopError as error:
            page = self._render(project_id, refusal=str(error))
            return Response(page.html, status_of_refusal(error))
        self._pages.clear()
        return redirect(url_for("dashboard.show", project=project_id), 303)

    def _render(self, project_id: int | None, refusal: str = "") -> Page:
        """Render the page. `refusal` is the reason why a button did nothing.

        If Redis or the model folder is unavailable, the page explains the problem and the remedy.
        """
        try:
            status = whole_status(self._settings, self._queue)
            has_any = status.projects or status.unreadable
            view = _view_of(self._settings, status, project_id) if has_any else {}
            view["refusal"], http_status = refusal, 200
        except TightloopError as error:
            view, http_status = {"problem": str(error)}, status_of(error)
        # Name the project explicitly, because another one may become the newest.
        shown_id = view["project"].project_id if "project" in view else project_id
        html = render_template(
            "dashboard.html",
            address=url_for("dashboard.show", project=shown_id),
            service_names=SERVICES,
            job_names=JOBS,
            unit=unit,
            describe_time=describe_time,
            **view,
        )
        return Page(html, http_status)


def create_app(settings: Settings) -> Flask:
    """Create the dashboard without the ML backend's routes, so that it can be published.

    The dashboard only reads the model folder and Redis; the backend makes all changes.
    """
    settings.require("dashboard_password", "control_secret")
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    backend = BackendClient(settings)
    dashboard = Dashboard(settings, queue, Auth(settings), backend, backend.metrics)
    app = Flask(__name__, static_folder=None)
    app.register_blueprint(dashboard.blueprint())
    app.add_url_rule("/", "home", lambda: redirect(url_for("dashboard.show")))
    app.add_url_rule("/health", "health", lambda: jsonify(status="UP"))
    register_error_handlers(app)
    return app


def _add_security_headers(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _view_of(settings: Settings, status: Status, project_id: int | None) -> dict[str, Any]:
    """Return the template's variables for the requested project, or for the newest project."""
    project = _find_project(status, project_id)
    versions = _newest_first(project.learning_curve)
    # A new head appears every few labels, so list only the full versions and the head in service.
    first = [(p, verb) for p, verb in versions if p.is_current or not p.is_head][:VERSIONS_SHOWN]
    confusion = project.confusion
    return {
        "project": project,
        "projects": status.projects,
        "sentence": sentence(project),
        "estimate": estimate_sentence(project.cross_validation) if project.cross_validation else "",
        "enough_labels": enough_labels,
        "annotation_use": use_sentence(project.learned_annotations, project.unlearned_annotations),
        "accuracy_unknown": _why_accuracy_is_unknown(project),
        "min_images": MIN_IMAGES,
        "outlook_sentence": outlook_sentence(project.outlook) if project.outlook else "",
        "services": status.services,
        "unreadable": status.unreadable,
        "curve_key": _curve_key(project),
        "jobs": [job for job in project.jobs if job.status in ("queued", "started")],
        "next_images": project.next_images,
        "is_blind": settings.blind,
        "most_labels": max(project.labels_per_class.values(), default=0),
        "matrix": confusion if confusion and len(confusion.classes) <= MATRIX_CLASSES else None,
        "confused": _confused_pairs(confusion) if confusion else [],
        **view_of_results(settings, project),
        "versions": first,
        "other_versions": [v for v in versions if v not in first][:OTHER_VERSIONS_SHOWN],
        "may_change": bool(settings.dashboard_password.get_secret_value()),
    }


def _find_project(status: Status, project_id: int | None) -> ProjectStatus:
    """Return the requested project, or the newest readable project that Label Studio still has."""
    projects = {project.project_id: project for project in status.projects}
    if project_id is None and not projects and status.unreadable:
        raise ModelFolderError("; ".join(status.unreadable.values()))
    if project_id is None:
        existing = [i for i, project in projects.items() if not project.is_gone]
        project_id = max(existing or projects, default=None)
    if str(project_id) in status.unreadable:
        raise ModelFolderError(status.unreadable[str(project_id)])
    if project_id is None or project_id not in projects:
        raise NotFound(f"project {project_id} is not set up here")
    return projects[project_id]


def _curve_key(project: ProjectStatus) -> str:
    """Return a key that identifies the content of the learning curve, for use in its address."""
    shown = repr((project.learning_curve, project.outlook))
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def _why_accuracy_is_unknown(project: ProjectStatus) -> str:
    """Return why there is no learning curve yet, or "" if a version's accuracy is known."""
    if any(point.images >= MIN_IMAGES for point in project.learning_curve):
        return ""
    return describe_measured(project.validation, project.validation_labels)


def _newest_first(curve: Sequence[CurvePoint]) -> list[tuple[CurvePoint, str]]:
    """Return each version, newest first, with the text of its button."""
    is_older = False
    versions = []
    for point in reversed(curve):
        versions.append((point, "Roll back" if is_older else "Put in service"))
        is_older = is_older or point.is_current
    return versions


def _confused_pairs(confusion: Confusion) -> list[tuple[str, str, int, int]]:
    """Return the pairs of classes that are confused most often.

    Each pair is the true class, the predicted class, the number of images confused in this way, and
    the number of images of the true class.
    """
    pairs = [
        (true, predicted, count, sum(counts))
        for true, counts in zip(confusion.classes, confusion.counts, strict=True)
        for predicted, count in zip(confusion.classes, counts, strict=True)
        if predicted != true and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:CONFUSED_PAIRS]
