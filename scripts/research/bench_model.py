"""Measure what feeding the model costs; a ratio of 1.0 means that it costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
import torch

from backend.network import inference, resnet, training
from backend.network.training import Recipe

N_CLASSES = 10
BATCH = 256
WARM_UP = 3  # the first ones build, allocate and choose kernels


class PairedTimes:
    """The seconds of each step of ours, and of a bare step that follows it.

    Pairs, because a busy machine slows both.
    """

    def __init__(self, device: str, bare_step: Callable[[], object]) -> None:
        self._is_cuda = torch.device(device).type == "cuda"
        self._bare_step = bare_step
        self._laps = [perf_counter()]

    def __call__(self, _done: int, _total: int) -> None:
        """Take the time of our step, then of a bare one."""
        self._lap()
        self._bare_step()
        self._lap()

    def ratio(self) -> float:
        """Return our speed over that of the bare steps, as the median of pairs."""
        ours_s, bare_s = np.diff(self._laps).reshape(-1, 2)[WARM_UP:].T
        return median(bare_s / ours_s)

    def _lap(self) -> None:
        if self._is_cuda:
            torch.cuda.synchronize()
        self._laps.append(perf_counter())


def training_ratio(image_size: int, device: str, steps: int = 30) -> float:
    """Return the steps/s of `training.train` over those on one ready, already augmented batch."""
    recipe = Recipe(image_size=image_size, min_steps=steps, epochs=0)
    images, labels = _noise(512), np.arange(512) % N_CLASSES
    feed = training.batches(
        images, labels, recipe=recipe, may_flip=True, seed=0, device=torch.device(device)
    )
    batch = next(feed)
    model = resnet.build(N_CLASSES, None, seed=0).to(memory_format=torch.channels_last)
    optimizer = training.make_optimizer(model.to(device), recipe)
    times = PairedTimes(device, lambda: training.take_step(model, optimizer, *batch))
    training.train(
        images,
        labels,
        n_classes=N_CLASSES,
        start=None,
        recipe=recipe,
        may_flip=True,
        seed=0,
        device=device,
        on_step=times,
    )
    return times.ratio()


def scoring_ratio(image_size: int, device: str, batches: int = 20) -> float:
    """Return the images/s of `predict` over those of the bare forward on a ready batch."""
    state = resnet.build(N_CLASSES, None, seed=0).state_dict()
    model = inference.load_model(state, N_CLASSES, device)
    images = _noise(BATCH * batches)
    on_device = inference.on_device(images[:BATCH], torch.device(device))
    ready = inference.resize(inference.normalizer(torch.device(device))(on_device), image_size)

    def forward() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            model(ready)

    times = PairedTimes(device, forward)
    inference.predict(
        model, images, image_size=image_size, device=device, batch_size=BATCH, on_batch=times
    )
    return times.ratio()


def _noise(n: int) -> inference.Images:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
