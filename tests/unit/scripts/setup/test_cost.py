"""Test estimates of how long scoring and training take."""

from __future__ import annotations

import torch

from backend.network.training import Recipe
from scripts.setup.cost import Speed, describe_cost, measure_speed

CPU = torch.device("cpu")


def test_estimates_follow_from_images_per_second() -> None:
    speed = Speed(scored=100.0, trained=32.0)
    assert speed.scoring_s(20_000) == 200.0
    # 10 epochs of 640 labels are 100 steps of 64 images.
    assert speed.training_s(Recipe(), 640) == 200.0
    # With few labels, a step has fewer images, and 60 steps are the least.
    assert speed.training_s(Recipe(), 16) == 30.0


def test_the_estimate_is_one_line() -> None:
    speed = Speed(scored=50.0, trained=100.0)
    # 79 steps of 64 images are 10 epochs of 500 labels.
    assert describe_cost(speed, 20_000, Recipe(image_size=128), CPU) == (
        "20,000 images at 128 px: about 7 min to score, a training run on 500 labels about 51 s "
        "(cpu)"
    )


def test_a_measured_speed_is_positive() -> None:
    found = measure_speed(Recipe(image_size=32), 3, CPU)
    assert found.scored > 0
    assert found.trained > 0
