"""Compute class probabilities for tasks with each project's version in service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from backend.base.arrays import Probs
from backend.base.errors import ImageError, NoModelError
from backend.base.settings import Settings
from backend.labelstudio.task_images import load_task_image
from backend.measures.calibration import rescale
from backend.network.device import find_device
from backend.network.inference import Images, load_model, predict, to_array
from backend.store import model_outputs
from backend.store.project_record import project_root
from backend.store.registry import Registry
from backend.store.version_meta import Meta

log = logging.getLogger(__name__)


@dataclass
class InService:
    """The version in service of one project, in memory."""

    meta: Meta
    row_of: Mapping[str, int]  # pool image id -> row of `probs`
    probs: Probs
    model: nn.Module | None = None  # loaded when it is first needed


class ModelService:
    """Keeps every project's version in service in memory, and reloads it after a promotion."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._device = find_device(settings.device)
        self._lock = threading.Lock()
        self._in_service: dict[int, InService] = {}

    def root(self, project_id: int) -> Path:
        """Return the project's folder of versions."""
        return project_root(self.settings.model_dir, project_id)

    def in_service(self, project_id: int) -> InService:
        """Return the version in service; NoModelError before the first one."""
        root = self.root(project_id)
        meta = Registry(root).current()
        if meta is None:
            raise NoModelError("no model yet: training starts once the first images are labeled")
        with self._lock:
            served = self._in_service.get(project_id)
            if served is None or served.meta != meta:
                image_ids, probs = model_outputs.load_pool_probs(root, meta.version) or (
                    (),
                    np.empty((0, len(meta.classes)), np.float32),
                )
                served = InService(meta, {i: row for row, i in enumerate(image_ids)}, probs)
                self._in_service[project_id] = served
                log.info("project %d: serving %s", project_id, meta.version)
        return served

    def probs(self, project_id: int, tasks: Sequence[Mapping[str, Any]], image_key: str) -> Probs:
        """Return class probabilities, a row per task: NaN if the task's image cannot be read.

        Pool images were scored when the version was made. Other images are fetched and run through
        the model.
        """
        served = self.in_service(project_id)
        probs = np.full((len(tasks), len(served.meta.classes)), np.nan, np.float32)
        images: dict[int, Images] = {}  # resized as soon as they are read, to save memory
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
            read = np.concatenate([*images.values()])
            raw = predict(model, read, image_size=size, device=self._device).probs
            if not np.isfinite(raw).all():
                raise model_outputs.nan_error(served.meta.version)
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
            if served.model is None:
                arrays = Registry(self.root(project_id)).load_state(served.meta.version)
                state = {name: torch.from_numpy(array) for name, array in arrays.items()}
                served.model = load_model(state, len(served.meta.classes), self._device)
        return served.model
