"""Estimate how long it takes on this device to score a pool and to train on it."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from backend.network import resnet
from backend.network.inference import load_model, predict
from backend.network.training import Recipe, train

LABELS = 500  # the number of labels in the estimated training run
SAMPLE = 16  # the number of images on which the speed is measured
STEPS = 3
REPEATS = 3  # the fastest run counts: other programs only slow runs down


@dataclass(frozen=True)
class Speed:
    """How many images a device handles per second."""

    scored: float
    trained: float

    def scoring_s(self, n_images: int) -> float:
        """Return how many seconds it takes to score images."""
        return n_images / self.scored

    def training_s(self, recipe: Recipe, n_labels: int) -> float:
        """Return how many seconds a training run takes."""
        return recipe.steps(n_labels) * min(recipe.batch_size, n_labels) / self.trained


def describe_cost(speed: Speed, n_images: int, recipe: Recipe, device: torch.device) -> str:
    """Describe in one line how long it takes to score a pool and to train on it."""
    return (
        f"{n_images:,} images at {recipe.image_size} px: {_about(speed.scoring_s(n_images))} to "
        f"score, a training run on {LABELS} labels {_about(speed.training_s(recipe, LABELS))} "
        f"({device.type})"
    )


def measure_speed(recipe: Recipe, n_classes: int, device: torch.device) -> Speed:
    """Measure the speed of the network on a few random images, which takes seconds on a CPU.

    The time to build the network is left out: training is measured as the difference between a
    longer and a shorter run.
    """
    size = recipe.image_size
    images = np.random.default_rng(0).integers(0, 256, (SAMPLE, size, size, 3), np.uint8)
    labels = np.arange(SAMPLE, dtype=np.int64) % n_classes
    model = load_model(resnet.build(n_classes, None, seed=0).state_dict(), n_classes, device)

    def score() -> None:
        predict(model, images, image_size=size, device=device)

    def take_steps(n_steps: int) -> None:
        train(
            images,
            labels,
            n_classes=n_classes,
            start=None,
            recipe=replace(recipe, batch_size=SAMPLE, min_steps=n_steps, epochs=0),
            may_flip=True,
            seed=0,
            device=device,
        )

    score()  # the first run also loads libraries
    take_steps(1)
    training_s = _seconds(lambda: take_steps(1 + STEPS)) - _seconds(lambda: take_steps(1))
    return Speed(scored=SAMPLE / _seconds(score), trained=SAMPLE * STEPS / max(training_s, 1e-3))


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def _seconds(run: Callable[[], None]) -> float:
    return max(min(timeit.repeat(run, number=1, repeat=REPEATS)), 1e-6)
