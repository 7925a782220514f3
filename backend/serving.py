"""The Label Studio ML backend: predictions, set-up check and webhook over HTTP, and the dashboard.

One process with threads: one model in memory. Training code is never imported here; a retrain is
enqueued by name.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flask import Flask, Response, g, jsonify, request
from label_studio_ml.model import LabelStudioMLBase
from numpy.typing import NDArray
from torch import nn
from werkzeug.exceptions import BadRequest, Unauthorized

from backend import pool_scores, registry
from backend.acquisition import Probs
from backend.calibration import rescale
from backend.controls import train_now
from backend.dashboard import make_dashboard
from backend.device import find_device
from backend.door import answer_errors, is_equal, knows_backend, needs_backend_password
from backend.errors import ImageError, NoModelError, SettingsError
from backend.inference import Images, load_model, predict_probs, to_array
from backend.labelstudio import (
    SECRET_HEADER,
    match_classes,
    parse_label_config,
    prediction_result,
    project_id_of,
    read_webhook,
)
from backend.metrics import Metrics
from backend.query import confidence
from backend.settings import Settings, load_settings
from backend.task_images import load_task_image
from backend.training_queue import TrainingQueue
from backend.version_meta import Meta

log = logging.getLogger(__name__)

MAX_WEBHOOK_BYTES = 5 * 1024**2
MAX_PREDICT_BYTES = (
    512 * 1024**2
)  # "Retrieve Predictions" sends all selected tasks, images included


@dataclass(frozen=True)
class InService:
    """The version in service of one project, in memory."""

    root: Path
    meta: Meta
    row_of: Mapping[str, int]  # pool image id -> row of `probs`
    probs: Probs


class ModelService:
    """Answers with the version in service; a newly promoted one is loaded at the next request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._device = find_device(settings.device)
        self._lock = threading.Lock()
        self._in_service: dict[int, InService] = {}
        self._models: dict[int, tuple[str, nn.Module]] = {}  # loaded when first needed

    def root(self, project_id: int) -> Path:
        """The project's folder of versions."""
        return registry.project_root(self.settings.model_dir, project_id)

    def in_service(self, project_id: int) -> InService:
        """The version in service; NoModelError before the first one."""
        root = self.root(project_id)
        meta = registry.current(root)
        if meta is None:
            raise NoModelError("no model yet: it comes by itself once the first images are labeled")
        with self._lock:
            held = self._in_service.get(project_id)
            if held is None or held.meta != meta:
                image_ids, probs = pool_scores.load_pool_probs(root, meta.version) or (
                    (),
                    np.empty((0, len(meta.classes)), np.float32),
                )
                held = InService(root, meta, {i: row for row, i in enumerate(image_ids)}, probs)
                self._in_service[project_id] = held
                log.info("project %d: serving %s", project_id, meta.version)
        return held

    def probs(self, project_id: int, tasks: Sequence[Mapping[str, Any]], image_key: str) -> Probs:
        """Class probabilities, a row per task; a row of NaN where the task's image cannot be read.

        Images of the pool were scored when the version was made. Others are fetched and run through
        the model.
        """
        served = self.in_service(project_id)
        probs = np.full((len(tasks), len(served.meta.classes)), np.nan, np.float32)
        images: dict[int, Images] = {}  # each at the model's own small size as soon as it is read
        size = served.meta.image_size
        for number, task in enumerate(tasks):
            data = task.get("data") or {}
            row = served.row_of.get(str(data.get("image_id")))
            if row is not None:
                probs[number] = served.probs[row]
                continue
            try:
                images[number] = to_array([self._fetch(data, image_key, size)], size)
            except ImageError as error:
                log.warning("task %s: no prediction: %s", task.get("id"), error)
        if images:
            model = self._model(project_id, served)
            raw = predict_probs(
                model, np.concatenate([*images.values()]), image_size=size, device=self._device
            )
            if not np.isfinite(raw).all():
                raise pool_scores.nan_error(served.meta.version)
            probs[list(images)] = rescale(raw, served.meta.temperature)
        return probs

    def _fetch(self, data: Mapping[str, Any], image_key: str, image_size: int) -> NDArray[np.uint8]:
        return load_task_image(
            str(data.get(image_key) or ""),
            label_studio_url=self.settings.label_studio_url,
            api_key=self.settings.label_studio_api_key.get_secret_value(),
            image_size=image_size,
            max_pixels=self.settings.max_image_pixels,
        )

    def _model(self, project_id: int, served: InService) -> nn.Module:
        with self._lock:
            version, model = self._models.get(project_id, ("", None))
            if model is None or version != served.meta.version:
                arrays = registry.load_state(served.root, served.meta.version)
                state = {name: torch.from_numpy(array) for name, array in arrays.items()}
                model = load_model(state, len(served.meta.classes), self._device)
                self._models[project_id] = (served.meta.version, model)
        return model


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
        super().__init__(label_config=label_config, **kwargs)
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
    @needs_backend_password(settings)
    def setup() -> Response:
        payload = _json(MAX_WEBHOOK_BYTES)
        project_id = _project_id(payload.get("project"))
        record = registry.read_record(service.root(project_id))
        if record is None:
            raise SettingsError(
                f"project {project_id} is not known here: run `python -m scripts.setup_project`"
            )
        match_classes(parse_label_config(str(payload.get("schema", ""))).choices, record.classes)
        current = registry.current(service.root(project_id))
        return jsonify(model_version=current.version if current else "")

    @app.post("/predict")
    @needs_backend_password(settings)
    def predict() -> Response:
        payload = _json(MAX_PREDICT_BYTES)
        tasks = payload.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise BadRequest("/predict needs a list of tasks")
        model = ResNetBackend(
            project_id=str(payload.get("project") or ""),
            label_config=payload.get("label_config"),
            service=service,
        )
        answers = model.predict(tasks, context=payload.get("params"))
        unpredicted = sum(answer["score"] is None for answer in answers)
        metrics.note_predictions(len(answers) - unpredicted, unpredicted)
        return jsonify(results=answers)

    @app.route("/versions", methods=["GET", "POST"])
    @needs_backend_password(settings)
    def versions() -> Response:
        project = request.args.get("project") or (request.get_json(silent=True) or {}).get(
            "project"
        )
        ids = [_project_id(project)] if project else registry.known_projects(settings.model_dir)
        return jsonify(
            versions=[meta.version for i in ids for meta in registry.versions(service.root(i))[0]]
        )

    @app.post("/webhook")
    def webhook() -> Response:
        secret = settings.webhook_secret.get_secret_value()
        given = request.headers.get(SECRET_HEADER, "")
        if not (is_equal(given, secret) or knows_backend(settings)):
            raise Unauthorized(f"send the webhook secret in the header {SECRET_HEADER}")
        try:
            event = read_webhook(_json(MAX_WEBHOOK_BYTES))
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
            return jsonify(status="counted", new=queue.generation(event.project_id).n_new)
        now = time.time()
        generation = queue.note_changes(
            event.project_id, event.changes, now, answered=event.answered
        )
        if generation.is_due(
            now, retrain_after=settings.retrain_after, retrain_wait_s=settings.retrain_wait_s
        ):
            queue.enqueue_retrain(event.project_id)
        if settings.train != "full" and generation.head_is_due(now):
            queue.enqueue_refit(event.project_id)
        queue.enqueue_top_up(event.project_id)
        return jsonify(status="counted", new=generation.n_new)

    app.register_blueprint(make_dashboard(settings, queue, metrics.page))
    answer_errors(app)
    return app


def _project_id(project: object) -> int:
    try:
        return project_id_of(str(project))
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _json(max_bytes: int) -> dict[str, Any]:
    request.max_content_length = max_bytes
    payload = request.get_json(force=True)
    if not isinstance(payload, dict):
        raise BadRequest("the body must be a JSON object")
    return payload
