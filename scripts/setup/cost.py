"""Estimate how long it takes on this device to score a pool and to train on it."""

from __future__ import annotations

import time
import timeit
from dataclasses import dataclass, replace

import numpy as np
import torch

from backend.network import resnet
from backend.network.inference import load_model, predict
from backend.network.training import Recipe, train

LABELS = 500  # the number of labels in the estimated training run
SAMPLE = 16  # the number of images on which the speed is measured
STEPS = 3
REPEATS = 2  # the fastest run counts: other programs only slow runs down


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

    The times to build the network and to take the first step, which also loads libraries, are left
    out.
    """
    size = recipe.image_size
    images = np.random.default_rng(0).integers(0, 256, (SAMPLE, size, size, 3), np.uint8)
    labels = np.arange(SAMPLE, dtype=np.int64) % n_classes
    model = load_model(resnet.build(n_classes, None, seed=0).state_dict(), n_classes, device)

    def score() -> None:
        predict(model, images, image_size=size, device=device)

    def train_s() -> float:
        began = 0.0

        def on_step(step: int, _: int) -> None:
            nonlocal began
            if step == 1:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                began = time.perf_counter()

        train(
            images,
            labels,
            n_classes=n_classes,
            start=None,
            recipe=replace(recipe, batch_size=SAMPLE, min_steps=1 + STEPS, epochs=0),
            may_flip=True,
            seed=0,
            device=device,
            on_step=on_step,
        )
        return time.perf_counter() - began

    score()  # the first run also loads libraries
    scoring_s = min(timeit.repeat(score, number=1, repeat=REPEATS))
    training_s = min(train_s() for _ in range(REPEATS))
    return Speed(SAMPLE / max(scoring_s, 1e-6), SAMPLE * STEPS / max(training_s, 1e-6))


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
