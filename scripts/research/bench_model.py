"""The part of `make bench` that is about the model: what feeding it costs, as two ratios."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from backend.network import inference, resnet, training
from backend.network.training import Recipe

N_CLASSES = 10


def measure_model(image_size: int, device: str = "cpu") -> dict[str, float]:
    """Both ratios, on noise of CIFAR-10's size; 1.0 = feeding the model costs nothing."""
    recipe = Recipe(image_size=image_size)
    return {
        "training": training_ratio(recipe, device),
        "scoring": scoring_ratio(image_size, device),
    }


def training_ratio(recipe: Recipe, device: str = "cpu", steps: int = 30) -> float:
    """Steps/s of `training.train` over steps/s on one ready, already augmented batch.

    Each step is followed by a bare one, so that a busy machine slows both: the median of pairs.
    """
    recipe = replace(recipe, min_steps=steps, epochs=0)
    images, labels = _noise(512), np.arange(512) % N_CLASSES
    feed = training.batches(
        images, labels, recipe=recipe, may_flip=True, seed=0, device=torch.device(device)
    )
    batch, targets, weights = next(feed)
    model = resnet.build(N_CLASSES, None, seed=0).to(memory_format=torch.channels_last)
    model.to(device)
    optimizer = training.make_optimizer(model, recipe)
    lap = _stopwatch(device)
    ours_s, bare_s = [], []

    def after_step(_step: int, _steps: int) -> None:
        ours_s.append(lap())
        training.take_step(model, optimizer, batch, targets, weights)
        bare_s.append(lap())

    training.train(
        images,
        labels,
        n_classes=N_CLASSES,
        start=None,
        recipe=recipe,
        may_flip=True,
        seed=0,
        device=device,
        on_step=after_step,
    )
    return _ratio(bare_s, ours_s)


def scoring_ratio(image_size: int, device: str = "cpu", batches: int = 20) -> float:
    """Images/s of `predict_probs` over those of the bare forward on one ready batch, in pairs."""
    state = resnet.build(N_CLASSES, None, seed=0).state_dict()
    model = inference.load_model(state, N_CLASSES, device)
    batch_size = 256
    images = _noise(batch_size * batches)
    on_device = inference.on_device(images[:batch_size], torch.device(device))
    ready = inference.resize(inference.normalizer(torch.device(device))(on_device), image_size)
    lap = _stopwatch(device)
    ours_s, bare_s = [], []

    def after_batch(_done: int, _total: int) -> None:
        ours_s.append(lap())
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            model(ready)
        bare_s.append(lap())

    inference.predict_probs(
        model,
        images,
        image_size=image_size,
        device=device,
        batch_size=batch_size,
        on_batch=after_batch,
    )
    return _ratio(bare_s, ours_s)


def _noise(n: int) -> inference.Images:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def _stopwatch(device: str) -> Callable[[], float]:
    """A function that returns the seconds since its last call, once the device is done."""
    before = time.perf_counter()

    def lap() -> float:
        nonlocal before
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds, before = now - before, now
        return seconds

    return lap


def _ratio(bare_s: list[float], ours_s: list[float]) -> float:
    warm = slice(3, None)  # the first ones build, allocate and choose kernels
    return median(bare / ours for bare, ours in zip(bare_s[warm], ours_s[warm], strict=True))
