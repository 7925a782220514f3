"""Build predictions in Label Studio's format."""

from __future__ import annotations

import pytest

from backend.base.errors import LabelConfigError
from backend.base.labeling import LabelConfig, Prediction
from backend.labelstudio.rows import prediction_result, write_prediction

CONFIG = LabelConfig("label", "image", "image", ("cat", "dog"))


def test_a_prediction_names_the_tags_of_the_label_config() -> None:
    assert prediction_result(CONFIG, "cat", 0.5) == [
        {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": ["cat"]},
            "score": 0.5,
        }
    ]


def test_a_prediction_of_a_class_outside_the_label_config_is_refused() -> None:
    with pytest.raises(LabelConfigError, match="'frog'"):
        prediction_result(CONFIG, "frog")


def test_a_prediction_without_a_label_shows_no_guess() -> None:
    assert write_prediction(CONFIG, Prediction(None, None, 0.0, "r0001")) == {
        "result": [],
        "score": 0.0,
        "model_version": "r0001",
    }
