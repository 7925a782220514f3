"""Controls: what people change by hand, whatever door they come through."""

from __future__ import annotations

import time

from backend import registry
from backend.settings import Settings
from backend.training_queue import TrainingQueue
from backend.version_meta import Meta


def promote(settings: Settings, queue: TrainingQueue, project_id: int, version: str) -> Meta:
    """Put a version in service, and have the open tasks ordered by it; NoModelError where there is
    none of that name.
    """
    root = registry.project_root(settings.model_dir, project_id)
    with registry.hold(root, "promote"):  # a head may be about to be
        meta = registry.promote(root, version)
    queue.enqueue_refresh(project_id)
    return meta


def train_now(queue: TrainingQueue, project_id: int) -> None:
    """Ask for a training, be the labels new or not; one that runs goes round again."""
    queue.note_changes(project_id, 0, time.time(), is_forced=True)
    queue.enqueue_retrain(project_id, is_forced=True)
