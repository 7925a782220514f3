"""Open a pool, and hide its labels from everything but the annotators and the final comparison."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.base.arrays import Embeddings, Labels
from backend.base.settings import Settings
from backend.network.device import find_device
from backend.rounds.embeddings import start_body
from scripts.console.progress_bars import progress_bar
from scripts.research.crowd import real_annotations
from scripts.research.experiment import open_experiment
from scripts.research.oracle import OracleProject
from scripts.research.simulation import Plan, Run, make_loop, pool_of


@dataclass(frozen=True, eq=False)
class HiddenPool:
    """All images of a pool, with labels that only annotators and the final comparison may use."""

    image_ids: tuple[str, ...]
    embeddings: Embeddings  # from the pre-trained body
    truth: Labels
    n_classes: int
    annotations: NDArray[np.int64] | None  # (images, people); None = all annotators are right


def open_run(settings: Settings, out: Path, jobs: int, rounds: int, batch: int) -> Run:
    """Open the pool and the weights, and return the run from which all simulations are derived."""
    experiment = open_experiment(settings, seed=0)
    plan = Plan(
        pool=experiment.pool.name,
        weights=experiment.weights.name,
        image_size=experiment.pool.image_size,
        train="head",
        seed_labels=0,
        rounds=rounds,
        batch=batch,
        pool_fraction=1.0,
        duplicates=1,
        annotators="",
        people=1,
    )
    return Run(
        plan=plan,
        arm="auto",
        repeat=0,
        folder=out / "runs",
        data_dir=settings.data_dir,
        device=str(find_device(settings.device)),
        threads=max(1, (os.cpu_count() or 1) // jobs),
    )


@cache
def hide_labels(base: Run, annotators: str) -> HiddenPool:
    """Return all images in the pool and in its validation split, with their labels hidden."""
    pool, truth = pool_of(base.plan, base.data_dir)
    loop = make_loop(base, pool, OracleProject(pool.classes))
    with progress_bar() as progress:
        _, _, embeddings = start_body(loop, progress)
    image_ids = pool.image_ids + pool.validation.image_ids
    position = {name: n for n, name in enumerate(pool.classes)}
    annotations = None
    if annotators:
        real = real_annotations(annotators, pool, image_ids)
        annotations = np.array([[position[name] for name in real[i]] for i in image_ids])
    labels = [position[truth[image_id]] for image_id in pool.image_ids]
    return HiddenPool(
        image_ids,
        np.concatenate([embeddings.pool, embeddings.validation]).astype(np.float32),
        np.array(labels + pool.validation.labels.tolist()),
        len(pool.classes),
        annotations,
    )
