"""Change things by hand: put a version in service, start training."""

from __future__ import annotations

import time

from backend.base.settings import Settings
from backend.queue.training_queue import TrainingQueue
from backend.store.files import lock
from backend.store.project_record import project_root
from backend.store.registry import Registry
from backend.store.version_meta import Meta


class LocalControls:
    """The controls in a process that may write to the model folder and to Redis."""

    def __init__(self, settings: Settings, queue: TrainingQueue) -> None:
        self._model_dir = settings.model_dir
        self._queue = queue

    def promote(self, project_id: int, version: str) -> Meta:
        """Put a version in service and have the open tasks reordered by it; NoModelError if the
        version does not exist.
        """
        root = project_root(self._model_dir, project_id)
        with lock(root, "promote"):  # a new head may be promoted at the same time
            meta = Registry(root).promote(version)
        self._queue.request_look(project_id)  # the ranker then reorders the open tasks
        return meta

    def train_now(self, project_id: int) -> None:
        """Request training even if no label is new; a running one is repeated afterward."""
        self._queue.ask_for_training(project_id, time.time())
