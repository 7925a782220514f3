"""The Label Studio ML backend: predictions, set-up check and webhook over HTTP, and the dashboard.

One process with threads: one model in memory. Training code is never imported here; a retrain is
enqueued by name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from flask import Flask, Response, g, jsonify, request
from label_studio_ml.model import LabelStudioMLBase
from werkzeug.exceptions import BadRequest

from backend.asking.query import confidence
from backend.base.errors import SettingsError
from backend.base.labeling import match_classes
from backend.base.settings import Settings, load_settings
from backend.labelstudio.incoming import project_id_of, read_webhook
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.rows import prediction_result
from backend.queue.training_queue import TrainingQueue
from backend.store import registry
from backend.web.auth import MAX_BODY_BYTES, MAX_PREDICT_BYTES, Door, answer_errors
from backend.web.control_routes import make_control_routes
from backend.web.controls import own_buttons, train_now
from backend.web.dashboard import make_dashboard
from backend.web.metrics import Metrics
from backend.web.model_service import ModelService
from backend.web.payloads import (
    P,
    PredictPayload,
    SetupPayload,
    VersionsPayload,
    read_json,
    read_payload,
)


@cache
def default_service() -> ModelService:
    """The service over the environment's settings."""
    return ModelService(load_settings())


class ResNetBackend(LabelStudioMLBase):  # type: ignore[misc]  # the library has no types
    """The model class that label-studio-ml knows, in the call shapes of 1.0.9 and of 2.x.

    A new object may be made for every request, so it holds nothing: the loaded version is the
    service's.
    """

    def __init__(
        self,
        project_id: str | None = None,
        label_config: str | None = None,
        service: ModelService | None = None,
        **kwargs: Any,
    ) -> None:
        # Without the label config, which the library would parse without a guard, and we never ask.
        super().__init__(**kwargs)
        self._project = project_id
        self._schema = label_config
        self._service = service or default_service()

    def predict(
        self,
        tasks: Sequence[Mapping[str, Any]],
        context: Any = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """One prediction per task, with its class probability and its confidence (low = ask first).

        A task whose image cannot be read gets one without result and score: Label Studio then
        neither drops the others nor asks again, and serves that task last.
        """
        project_id = self._project_id(tasks)
        served = self._service.in_service(project_id)
        config = parse_label_config(self._schema or "")
        names = match_classes(config.choices, served.meta.classes)
        probs = self._service.probs(project_id, tasks, config.image_key)
        readable = np.isfinite(probs).all(axis=1)
        version = served.meta.version
        answers: list[dict[str, Any]] = [
            {"result": [], "score": None, "model_version": version} for _ in tasks
        ]
        strategy = self._service.settings.strategy
        scores = confidence(
            strategy, int(readable.sum()), probs[readable], np.random.default_rng(0)
        )
        for number, score in zip(np.flatnonzero(readable), scores, strict=True):
            favourite = int(probs[number].argmax())
            probability = float(probs[number, favourite])
            answers[number] = {
                "result": prediction_result(config, names[favourite], probability),
                "score": float(score),
                "model_version": version,
            }
        return answers

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Nothing: training belongs to the worker, which the webhook wakes."""
        return {}

    def _project_id(self, tasks: Sequence[Mapping[str, Any]]) -> int:
        project = self._project or (tasks[0].get("project") if tasks else None)
        return _project_id(project)


def create_app(settings: Settings | None = None) -> Flask:
    """The backend; SettingsError where a secret is missing."""
    settings = settings or load_settings()
    settings.require("backend_password", "webhook_secret")
    door = Door(settings)
    service = ModelService(settings)
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    metrics = Metrics(settings, queue)
    app = Flask(__name__, static_folder=None)

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def measure(answer: Response) -> Response:
        if request.endpoint == "webhook":
            seconds = time.perf_counter() - g.began
            metrics.note_webhook(seconds, answer.status_code, g.get("outcome", "counted"))
        return answer

    @app.get("/")
    @app.get("/health")
    def health() -> Response:
        return jsonify(status="UP")

    @app.post("/setup")
    @door.needs_backend_password
    def setup() -> Response:
        payload = _payload(SetupPayload)
        project_id = _project_id(payload.project)
        record = registry.read_record(service.root(project_id))
        if record is None:
            raise SettingsError(
                f"project {project_id} is not known here: run `python -m scripts.setup_project`"
            )
        match_classes(parse_label_config(payload.label_config).choices, record.classes)
        current = registry.current(service.root(project_id))
        return jsonify(model_version=current.version if current else "")

    @app.post("/predict")
    @door.needs_backend_password
    def predict() -> Response:
        payload = _payload(PredictPayload, MAX_PREDICT_BYTES)
        model = ResNetBackend(
            project_id=str(payload.project or ""),
            label_config=payload.label_config,
            service=service,
        )
        answers = model.predict(payload.tasks)
        unpredicted = sum(answer["score"] is None for answer in answers)
        metrics.note_predictions(len(answers) - unpredicted, unpredicted)
        return jsonify(results=answers)

    @app.route("/versions", methods=["GET", "POST"])
    @door.needs_backend_password
    def versions() -> Response:
        project: str | int | None = request.args.get("project")
        if project is None and request.content_length:
            project = _payload(VersionsPayload).project
        ids = [_project_id(project)] if project else registry.known_projects(settings.model_dir)
        return jsonify(
            versions=[meta.version for i in ids for meta in registry.versions(service.root(i))[0]]
        )

    @app.post("/webhook")
    @door.needs_webhook_secret
    def webhook() -> Response:
        try:
            event = read_webhook(read_json(_body(MAX_BODY_BYTES)))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        if event.kind == "ignored":
            g.outcome = "ignored"
            return jsonify(status="ignored")
        if event.project_id not in registry.known_projects(settings.model_dir):
            g.outcome = "ignored"
            return jsonify(status="ignored", reason="this project is not set up here")
        if event.kind == "start_training":
            train_now(queue, event.project_id)
        else:
            queue.hint(event.project_id, time.time(), event.annotated)
        return jsonify(status="counted")

    buttons = own_buttons(settings, queue)
    app.register_blueprint(make_dashboard(settings, door, queue, metrics.page, buttons))
    app.register_blueprint(make_control_routes(settings, door, buttons))
    answer_errors(app)
    return app


def _project_id(project: object) -> int:
    try:
        return project_id_of(str(project))
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _payload(kind: type[P], max_bytes: int = MAX_BODY_BYTES) -> P:
    try:
        return read_payload(kind, _body(max_bytes))
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _body(max_bytes: int) -> bytes:
    request.max_content_length = max_bytes
    return request.get_data()
