"""label-studio-ml calls the model class in two ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backend.base.settings import Settings
from backend.web.model_service import ModelService
from backend.web.resnet_backend import ResNetBackend
from tests.unit.web.conftest import (
    CONFIG,
    put_in_service,
    task,
)


@pytest.mark.parametrize(
    "construct",
    [
        lambda service: ResNetBackend(label_config=CONFIG, train_output={}, service=service),
        lambda service: ResNetBackend("7", CONFIG, service=service),
        lambda service: ResNetBackend(
            project_id="7.1795346887", label_config=CONFIG, service=service
        ),
    ],
    ids=["1.0.9", "2.x", "2.x with a time stamp"],
)
def test_the_model_class_can_be_called_in_the_shapes_of_both_versions(
    config: Settings, root: Path, construct: Callable[[ModelService], ResNetBackend]
) -> None:
    put_in_service(root)
    model = construct(ModelService(config))
    tasks = [task(1, image_id="img-a")]
    by_kwargs = model.predict(tasks, login=None, password=None, context=None)
    assert model.predict(tasks, context=None) == model.predict(tasks) == by_kwargs
    assert (
        model.fit("ANNOTATION_CREATED", {}) == model.fit((), event="X", data={}, job_id="1") == {}
    )
