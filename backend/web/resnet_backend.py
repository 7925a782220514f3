"""The model class for label-studio-ml, compatible with the signatures of 1.0.9 and 2.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from label_studio_ml.model import LabelStudioMLBase

from backend.asking.query import confidence
from backend.base.labeling import match_classes
from backend.base.settings import load_settings
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.rows import prediction_result
from backend.web.model_service import ModelService
from backend.web.payloads import project_number


@cache
def default_service() -> ModelService:
    """Return the service for the environment's settings."""
    return ModelService(load_settings())


class ResNetBackend(LabelStudioMLBase):  # type: ignore[misc]  # the library has no types
    """Predicts with the version in service.

    A new object may be made for every request, so the model is kept in the service.
    """

    def __init__(
        self,
        project_id: str | None = None,
        label_config: str | None = None,
        service: ModelService | None = None,
        **kwargs: Any,
    ) -> None:
        # Do not pass the label config: the library would parse it unguarded, and we need no copy.
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
        """Return one prediction per task: its class probability and its confidence (low = ask
        first).

        If a task's image cannot be read, its prediction has neither result nor score. Label Studio
        then keeps the other predictions, does not ask again, and serves that task last.
        """
        project = self._project or (tasks[0].get("project") if tasks else None)
        project_id = project_number(project)
        meta = self._service.in_service(project_id).meta
        config = parse_label_config(self._label_config or "")
        names = match_classes(config.choices, meta.classes)
        probs = self._service.probs(project_id, tasks, config.image_key)
        readable = np.isfinite(probs).all(axis=1)
        predictions: list[dict[str, Any]] = [
            {"result": [], "score": None, "model_version": meta.version} for _ in tasks
        ]
        strategy = self._service.settings.strategy
        scores = confidence(
            strategy, int(readable.sum()), probs[readable], np.random.default_rng(0)
        )
        for number, score in zip(np.flatnonzero(readable), scores, strict=True):
            favourite = int(probs[number].argmax())
            probability = float(probs[number, favourite])
            result = prediction_result(config, names[favourite], probability)
            predictions[number].update(result=result, score=float(score))
        return predictions

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Do nothing: a webhook triggers training in the trainer."""
        return {}
