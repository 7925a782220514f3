"""Predict the classes of tasks with each project's version in service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_studio_ml.model import LabelStudioMLBase
from numpy.typing import NDArray
from torch import nn

from backend.asking.query import confidence
from backend.base.arrays import Probs
from backend.base.classes import ClassList, append_new
from backend.base.errors import ImageError, NoModelError, RowsLostError
from backend.base.settings import Settings, load_settings
from backend.base.strategy_names import StrategyName
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.rows import prediction_result
from backend.labelstudio.task_images import TaskImages
from backend.measures.calibration import rescale
from backend.network.device import find_device
from backend.network.inference import load_model, predict
from backend.store import model_outputs
from backend.store.finish_store import FinishStore
from backend.store.project_record import project_root, read_record
from backend.store.registry import Registry
from backend.store.version_meta import Meta
from backend.web.payloads import project_number
from backend.web.predicted_tasks import predicted_tasks

log = logging.getLogger(__name__)


@dataclass
class InService:
    """A project's version in service, loaded into memory."""

    meta: Meta
    model: nn.Module | None = None  # loaded when first needed


class ModelService:
    """Keeps each project's version in service in memory, and reloads it after a promotion."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._images = TaskImages(settings)
        self._device = find_device(settings.device)
        self._lock = threading.Lock()
        self._in_service: dict[int, InService] = {}

    def root(self, project_id: int) -> Path:
        """Return the project's folder of versions."""
        return project_root(self.settings.model_dir, project_id)

    def in_service(self, project_id: int) -> InService:
        """Return the version in service. Raises NoModelError if no version exists yet."""
        root = self.root(project_id)
        meta = Registry(root).current()
        if meta is None:
            raise NoModelError("no model yet: training starts once the first images are labeled")
        with self._lock:
            served = self._in_service.get(project_id)
            # Measuring a version again changes its metadata, but not its predictions.
            made = (meta.version, meta.created_at)
            if served is None or (served.meta.version, served.meta.created_at) != made:
                served = InService(meta)
                self._in_service[project_id] = served
                log.info("project %d: serving %s", project_id, meta.version)
        return served

    def probs(
        self,
        project_id: int,
        tasks: Sequence[Mapping[str, Any]],
        image_ids: Sequence[str],
        image_key: str,
    ) -> Probs:
        """Return class probabilities, one row per task; a row is NaN if its image cannot be read.

        Pool images were scored when the version was created; `image_ids` has one id per task, or ""
        if its image is not in the pool. Other images are fetched and run through the model.
        """
        served = self.in_service(project_id)
        probs = self._pool_probs(project_id, served.meta, image_ids)
        images: dict[int, NDArray[np.uint8]] = {}  # framed immediately to save memory
        view = served.meta.view
        for number, task in enumerate(tasks):
            if np.isfinite(probs[number]).all():
                continue
            address = str((task.get("data") or {}).get(image_key) or "")
            try:
                images[number] = self._images.load(address, view)
            except ImageError as error:
                log.warning("task %s: no prediction: %s", task.get("id"), error)
        if images:
            model = self._model(project_id, served)
            read = np.stack([*images.values()])
            raw = predict(model, read, image_size=view.image_size, device=self._device).probs
            if not np.isfinite(raw).all():
                raise model_outputs.nan_error(served.meta.version)
            probs[list(images)] = rescale(raw, served.meta.temperature)
        return probs

    def classes(self, project_id: int, meta: Meta, choices: tuple[str, ...]) -> ClassList:
        """Return the project's classes, given the choices that the label config offers.

        The version never predicts a class that joined the project later.
        """
        record = read_record(self.root(project_id))
        if record is None:
            return ClassList(append_new(meta.classes, choices), choices)
        return record.offering(choices)

    def strategy(self, project_id: int) -> StrategyName:
        """Return the project's query strategy, whose confidences order the tasks."""
        root = self.root(project_id)
        record = read_record(root)
        is_finishing = FinishStore(root).current() is not None
        return self.settings.strategy_in(
            record.strategy if record else None, is_finishing=is_finishing
        )

    def _pool_probs(self, project_id: int, meta: Meta, image_ids: Sequence[str]) -> Probs:
        """Return the saved probabilities, one row per image; a row is NaN if there are none."""
        probs = np.full((len(image_ids), len(meta.classes)), np.nan, np.float32)
        if (
            stored := model_outputs.load_pool_probs(self.root(project_id), meta.version)
        ) is not None:
            with suppress(RowsLostError):  # a file is damaged, so the model must run
                rows = stored.find(image_ids)
                probs[rows >= 0] = stored[rows[rows >= 0]]
        return probs

    def _model(self, project_id: int, served: InService) -> nn.Module:
        with self._lock:
            if served.model is None:
                arrays = Registry(self.root(project_id)).load_state(served.meta.version)
                state = {name: torch.from_numpy(array) for name, array in arrays.items()}
                served.model = load_model(state, len(served.meta.classes), self._device)
        return served.model


@cache
def default_service() -> ModelService:
    """Return the service, created from the environment's settings."""
    return ModelService(load_settings())


class ResNetBackend(LabelStudioMLBase):  # type: ignore[misc]  # the library has no types
    """The model class for label-studio-ml, with the signatures of 1.0.9 and 2.x.

    The library may create an object for every request, so the model is kept in the service.
    """

    def __init__(
        self,
        project_id: str | None = None,
        label_config: str | None = None,
        service: ModelService | None = None,
        **kwargs: Any,
    ) -> None:
        # Do not pass the label config: we do not need it, and the library parses its XML without
        # protection against attacks.
        super().__init__(**kwargs)
        self._project = project_id
        self._label_config = label_config
        self._service = service or default_service()

    def predict(
        self,
        tasks: Sequence[Mapping[str, Any]],
        context: Any = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """Return one prediction per task: the likeliest class, its probability, and a score.

        Tasks with the lowest scores are labeled first. Tasks of the validation and the acceptance
        sample get no guess, and a score that puts them first. If a task's image cannot be read, its
        prediction has neither result nor score. Label Studio then keeps the other predictions, does
        not retry, and serves that task last.
        """
        project = self._project or (tasks[0].get("project") if tasks else None)
        project_id = project_number(project)
        meta = self._service.in_service(project_id).meta
        config = parse_label_config(self._label_config or "")
        classes = self._service.classes(project_id, meta, config.choices)
        reader = predicted_tasks(self._service.root(project_id))
        of_sample = [reader.is_without_guess(task) for task in tasks]
        guessed = [row for row, is_sampled in enumerate(of_sample) if not is_sampled]
        shown = [tasks[row] for row in guessed]
        image_ids = [reader.image_id(task) for task in shown]
        probs = self._service.probs(project_id, shown, image_ids, config.image_key)
        probs = classes.align(probs)
        readable = np.isfinite(probs).all(axis=1)
        predictions: list[dict[str, Any]] = [
            {"result": [], "score": 0.0 if is_sampled else None, "model_version": meta.version}
            for is_sampled in of_sample
        ]
        strategy = self._service.strategy(project_id)
        scores = confidence(
            strategy, int(readable.sum()), probs[readable], np.random.default_rng(0)
        )
        for number, score in zip(np.flatnonzero(readable), scores, strict=True):
            favourite = int(probs[number].argmax())
            probability = float(probs[number, favourite])
            result = prediction_result(config, classes.names[favourite], probability)
            predictions[guessed[number]].update(result=result, score=float(score))
        return predictions

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Do nothing: a webhook triggers training in the trainer."""
        return {}
