"""Let people put a version in service, start training, or use the dashboard's other buttons.

A dashboard in another process sends forms to POST /controls/promote (project, version),
/controls/train (project), /controls/rescan (project), /controls/export (project) and
/controls/finish (project, max_error). Every request needs CONTROL_SECRET, which proves that it
comes from our dashboard, and the login of the person who pressed the button.
"""

from __future__ import annotations

import time

from flask import Blueprint, Response, jsonify, request

from backend.base.errors import FinishError, SettingsError, TightloopError
from backend.base.settings import Settings
from backend.queue.training_queue import TrainingQueue
from backend.rounds import adapting_rule
from backend.store.bodies import Bodies, Start
from backend.store.files import lock
from backend.store.finish_store import FinishStore
from backend.store.project_record import project_root, read_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.version_meta import Meta
from backend.web.auth import Auth
from backend.web.error_responses import status_of_refusal
from backend.web.payloads import requested_max_error, required_project

MAX_FORM_BYTES = 10_000
AUTOMATIC = "auto"  # as a start


class LocalControls:
    """The controls in a process that may write to the model folder and to Redis."""

    def __init__(self, settings: Settings, queue: TrainingQueue) -> None:
        self._model_dir, self._adapt = settings.model_dir, settings.adapt
        self._queue = queue

    def promote(self, project_id: int, version: str) -> Meta:
        """Put a version in service and have the open tasks reordered.

        Raises NoModelError if the version does not exist.
        """
        root = project_root(self._model_dir, project_id)
        with lock(root, "promote"):  # a new head may be promoted at the same time
            meta = Registry(root).promote(version)
        self._queue.request_look(project_id)  # the ranker then reorders the open tasks
        return meta

    def set_start(self, project_id: int, name: str) -> Start:
        """Choose the body that full training runs start from, and request one if it is new.

        AUTOMATIC chooses the newest body that was not refused, and lets the loop choose later ones.
        Raises ModelFolderError if the body is unknown, broken or pruned.
        """
        root = project_root(self._model_dir, project_id)
        with lock(root, "promote"):  # the body must not be pruned meanwhile
            bodies = Bodies(root)
            if name == AUTOMATIC:
                start = bodies.set_start(bodies.newest_accepted(), by="loop")
            else:
                start = bodies.set_start(name, by="person")
        if start.chosen_at is not None:
            ProjectStore(root).record(start_changed_at=start.chosen_at.timestamp())
        self._queue.request_look(project_id)
        return start

    def adapt_again(self, project_id: int) -> None:
        """Request another adaptation, from the current start, although the pool has not grown.

        If adapting has failed, it is tried again at once. Raises SettingsError if ADAPT does not
        allow an adaptation.
        """
        store = ProjectStore(project_root(self._model_dir, project_id))
        n_images = store.facts().pool_images
        if self._adapt == "off":
            raise SettingsError("ADAPT=off is set: set ADAPT to `auto` or to a number of minutes")
        if not adapting_rule.must_adapt(self._adapt, n_images, n_adapted=0):
            raise SettingsError(
                f"ADAPT=auto needs {adapting_rule.MIN_IMAGES:,} images, and the pool has "
                f"{n_images:,}: set ADAPT to a number of minutes"
            )
        store.record_success("adapt", adapted_images=0, adapt_failures=0, adapt_error="")
        self._queue.request_look(project_id)

    def train_now(self, project_id: int) -> None:
        """Request training even if no label is new.

        If a training run is in progress, another one follows it.
        """
        self._queue.ask_for_training(project_id, time.time())

    def rescan_now(self, project_id: int) -> None:
        """Request a search for new images. Raises SettingsError if the pool never changes."""
        record = read_record(project_root(self._model_dir, project_id))
        if record is not None and not record.may_pool_change:
            raise SettingsError(f"POOL={record.pool} never changes: there are no new images")
        self._queue.ask_for_rescan(project_id, time.time())

    def export_now(self, project_id: int) -> None:
        """Request a file with all labels, which the ranker writes."""
        root = project_root(self._model_dir, project_id)
        ProjectStore(root).record(export_asked_at=time.time())
        self._queue.request_look(project_id)

    def finish_now(self, project_id: int, max_error: float) -> None:
        """Request labels by the model for the rest, of which at most this share may be wrong.

        The ranker then draws the acceptance sample. Raises FinishError if people are already
        labeling one.
        """
        root = project_root(self._model_dir, project_id)
        if FinishStore(root).asking():
            raise FinishError("people are already labeling an acceptance sample: wait for the end")
        ProjectStore(root).record(finish_wanted=max_error)
        self._queue.request_look(project_id)

    def blueprint(self, auth: Auth) -> Blueprint:
        """Return the routes, which explain every refusal in one sentence for the dashboard."""
        routes = Blueprint("controls", __name__, url_prefix="/controls")
        for prepare in (_limit_body, auth.check_control_secret, auth.check_operator):
            routes.before_request(prepare)
        routes.post("/promote")(self._promote)
        routes.post("/train")(self._train)
        routes.post("/rescan")(self._rescan)
        routes.post("/export")(self._export)
        routes.post("/finish")(self._finish)
        routes.register_error_handler(TightloopError, _refuse)
        return routes

    def _promote(self) -> Response:
        project_id = required_project(self._model_dir)
        self.promote(project_id, request.form.get("version", ""))
        return jsonify(status="promoted")

    def _train(self) -> Response:
        self.train_now(required_project(self._model_dir))
        return jsonify(status="enqueued")

    def _rescan(self) -> Response:
        self.rescan_now(required_project(self._model_dir))
        return jsonify(status="enqueued")

    def _export(self) -> Response:
        self.export_now(required_project(self._model_dir))
        return jsonify(status="enqueued")

    def _finish(self) -> Response:
        self.finish_now(required_project(self._model_dir), requested_max_error())
        return jsonify(status="enqueued")


def _limit_body() -> None:
    request.max_content_length = MAX_FORM_BYTES


def _refuse(error: TightloopError) -> tuple[Response, int]:
    return jsonify(error=str(error)), status_of_refusal(error)
