"""Request the first training run in set-up; tests/integration sets up whole projects."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import pytest
from redis import Redis
from rq import Queue

from backend.base.labeling import ProjectCounts
from backend.base.settings import Settings, load_settings
from backend.images.pool import Pool
from backend.labelstudio.project_setup import ProjectSetup
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import decide
from backend.rounds.observe import observe
from backend.store.project_record import project_root
from scripts.setup.opening import OpenedProject
from scripts.setup.steps import SetupSteps
from tests.conftest import RedisServer
from tests.unit.store.test_registry import meta, record, save


class Project:
    """A project in Label Studio with this many annotations."""

    project_id = 7

    def __init__(self, annotations: int) -> None:
        self._annotations = annotations

    def counts(self) -> ProjectCounts:
        return ProjectCounts(self._annotations, self._annotations, skipped=0, open=0)


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer) -> Settings:
    return load_settings(_env_file=None, model_dir=tmp_path, redis_url=redis_server.url)


def start(settings: Settings, annotations: int) -> bool:
    opened = OpenedProject(
        project=cast(ProjectSetup, Project(annotations)),
        root=project_root(settings.model_dir, 7),
        record=record(7),
        pool=cast(Pool, None),  # training reads it, not its request
        has_changed=False,
    )
    return SetupSteps(settings, opened).start_first_training()


def test_the_first_training_run_is_requested_once_and_survives_a_lost_redis(
    settings: Settings, redis_server: RedisServer
) -> None:
    root = project_root(settings.model_dir, 7)
    assert start(settings, 20)
    assert Queue("train", connection=Redis.from_url(redis_server.url)).job_ids == ["retrain-p7"]
    redis_server.flush()
    state = observe(root, TrainingQueue(redis_server.url), 7)
    assert decide(state, settings, time.time()).train == "retrain"
    assert not start(settings, 20)  # again: it adds the lost job and requests nothing new
    assert observe(root, TrainingQueue(redis_server.url), 7).train_asked_at == state.train_asked_at
    assert Queue("train", connection=Redis.from_url(redis_server.url)).job_ids == ["retrain-p7"]


def test_without_labels_or_after_a_first_version_set_up_requests_no_training_run(
    settings: Settings, redis_server: RedisServer
) -> None:
    root = project_root(settings.model_dir, 7)
    assert not start(settings, 0)
    assert not root.exists()
    save(root, meta(1))
    assert not start(settings, 20)
    assert not observe(root, TrainingQueue(redis_server.url), 7).is_training_asked
    assert Queue("train", connection=Redis.from_url(redis_server.url)).job_ids == []
