"""Controls: what people change by hand, whatever door they come through."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.base.settings import Settings
from backend.queue.training_queue import TrainingQueue
from backend.store import registry
from backend.store.version_meta import Meta


@dataclass(frozen=True)
class Buttons:
    """What the dashboard's buttons do: change things here, or ask the backend to."""

    promote: Callable[[int, str], object]  # project, version
    train_now: Callable[[int], object]  # project


def own_buttons(settings: Settings, queue: TrainingQueue) -> Buttons:
    """Buttons of a process that may write to the model folder and to Redis."""
    return Buttons(
        promote=lambda project_id, version: promote(settings, queue, project_id, version),
        train_now=lambda project_id: train_now(queue, project_id),
    )


def promote(settings: Settings, queue: TrainingQueue, project_id: int, version: str) -> Meta:
    """Put a version in service, and have the open tasks ordered by it; NoModelError where there is
    none of that name.
    """
    root = registry.project_root(settings.model_dir, project_id)
    with registry.hold(root, "promote"):  # a head may be about to be
        meta = registry.promote(root, version)
    queue.look(project_id)  # the ranker orders the open tasks by it
    return meta


def train_now(queue: TrainingQueue, project_id: int) -> None:
    """Ask for a training, be the labels new or not; one that runs goes round again."""
    queue.ask_for_training(project_id, time.time())
