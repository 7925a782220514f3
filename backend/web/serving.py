"""Serve the Label Studio ML backend over HTTP: predictions, set-up check, webhook and dashboard.

A single process with threads keeps one model per project in memory. The process never imports
training code; training jobs are enqueued by name.
"""

from __future__ import annotations

import logging
import time

from flask import Blueprint, Flask, Response, g, jsonify, request

from backend.base.errors import SettingsError, TightloopError
from backend.base.settings import Settings, load_settings
from backend.labelstudio.label_config import parse_label_config
from backend.queue.training_queue import TrainingQueue
from backend.store.project_record import known_projects, read_record
from backend.store.registry import Registry
from backend.store.version_meta import Meta
from backend.web.auth import MAX_BODY_BYTES, MAX_PREDICT_BYTES, Auth, guarded
from backend.web.controls import LocalControls
from backend.web.dashboard import Dashboard
from backend.web.error_responses import register_error_handlers
from backend.web.metrics import Metrics
from backend.web.payloads import (
    PredictPayload,
    SetupPayload,
    VersionsPayload,
    project_number,
    read_event,
    read_payload,
)
from backend.web.predictions import ModelService, ResNetBackend

log = logging.getLogger(__name__)


class MLBackend:
    """The views for Label Studio."""

    def __init__(
        self,
        settings: Settings,
        queue: TrainingQueue,
        auth: Auth,
        controls: LocalControls,
        metrics: Metrics,
    ) -> None:
        self._model_dir = settings.model_dir
        self._queue = queue
        self._auth = auth
        self._controls = controls
        self._metrics = metrics
        self._service = ModelService(settings)

    def blueprint(self) -> Blueprint:
        """Return the routes, each with its access checks."""
        routes = Blueprint("ml_backend", __name__)
        routes.before_request(_start_timing)
        routes.after_request(self._record_webhook)
        auth = self._auth
        routes.get("/")(self.health)
        routes.get("/health")(self.health)
        routes.post("/setup")(guarded(self.setup, auth.check_backend))
        routes.post("/predict")(guarded(self.predict, auth.check_backend))
        versions = guarded(self.versions, auth.check_backend)
        routes.route("/versions", methods=["GET", "POST"])(versions)
        routes.post("/webhook")(guarded(self.webhook, auth.check_webhook))
        return routes

    def health(self) -> Response:
        """Report that the process is up, without details about the machine."""
        return jsonify(status="UP")

    def setup(self) -> Response:
        """Check the project's label config, and return the name of the version in service.

        Label Studio also calls this if a person connects the backend in a project's settings. The
        label config may have other classes than this version; the next version learns them.
        """
        payload = read_payload(SetupPayload, _body(MAX_BODY_BYTES))
        project_id = project_number(payload.project)
        try:
            current = self._check_project(project_id, payload.label_config)
        except TightloopError as error:
            log.warning("project %d: refused to serve as its ML backend: %s", project_id, error)
            raise
        return jsonify(model_version=current.version if current else "")

    def _check_project(self, project_id: int, label_config: str) -> Meta | None:
        """Return the version in service. Raises SettingsError if the project is unknown."""
        root = self._service.root(project_id)
        record = read_record(root)
        if record is None:
            raise SettingsError(
                f"Tightloop does not know project {project_id} yet: instead of connecting the "
                f"model here, run `python -m scripts.setup_project --attach {project_id}`, which "
                "connects it"
            )
        parse_label_config(label_config)
        return Registry(root).current()

    def predict(self) -> Response:
        """Predict a label for every task in the request."""
        payload = read_payload(PredictPayload, _body(MAX_PREDICT_BYTES))
        project = str(payload.project or "")
        model = ResNetBackend(project, payload.label_config, self._service)
        predictions = model.predict(payload.tasks)
        unpredicted = sum(prediction["score"] is None for prediction in predictions)
        self._metrics.record_predictions(len(predictions) - unpredicted, unpredicted)
        return jsonify(results=predictions)

    def versions(self) -> Response:
        """List the model versions of one project, or of all projects."""
        project: str | int | None = request.args.get("project")
        if project is None and request.content_length:
            project = read_payload(VersionsPayload, _body(MAX_BODY_BYTES)).project
        ids = [project_number(project)] if project else known_projects(self._model_dir)
        sound = [meta for i in ids for meta in Registry(self._service.root(i)).versions()[0]]
        return jsonify(versions=[meta.version for meta in sound])

    def webhook(self) -> Response:
        """Record that a project has changed; ignore an event that changes no label."""
        event = read_event(_body(MAX_BODY_BYTES))
        if event.kind == "ignored":
            return _ignored("this event changes no label")
        if event.project_id not in known_projects(self._model_dir):
            return _ignored("this project is not set up here")
        if event.kind == "start_training":
            self._controls.train_now(event.project_id)
        else:
            record = read_record(self._service.root(event.project_id))
            is_attached = record is not None and record.is_attached
            annotated = event.images(is_attached=is_attached)
            self._queue.hint(event.project_id, time.time(), annotated)
        return jsonify(status="counted")

    def _record_webhook(self, response: Response) -> Response:
        if request.path == "/webhook":
            seconds = time.perf_counter() - g.started_at
            outcome = g.get("outcome", "counted")
            self._metrics.record_webhook(seconds, response.status_code, outcome)
        return response


def create_app(settings: Settings | None = None) -> Flask:
    """Create the backend's application. Raises SettingsError if a secret is missing."""
    settings = settings or load_settings()
    settings.require("backend_password", "webhook_secret")
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    auth = Auth(settings)
    controls = LocalControls(settings, queue)
    metrics = Metrics(settings, queue)
    app = Flask(__name__, static_folder=None)
    for routes in (
        MLBackend(settings, queue, auth, controls, metrics).blueprint(),
        Dashboard(settings, queue, auth, controls, metrics.page).blueprint(),
        controls.blueprint(auth),
    ):
        app.register_blueprint(routes)
    register_error_handlers(app)
    return app


def _start_timing() -> None:
    g.started_at = time.perf_counter()


def _ignored(reason: str) -> Response:
    g.outcome = "ignored"
    return jsonify(status="ignored", reason=reason)


def _body(max_bytes: int) -> bytes:
    request.max_content_length = max_bytes
    return request.get_data()
