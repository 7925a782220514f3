"""Set-up's look at somebody's own label config, before anything is made; the first training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import pytest
from redis import Redis
from rq import Queue

from backend.base.errors import LabelConfigError
from backend.base.labeling import ProjectCounts
from backend.base.settings import Settings, load_settings
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project_setup import ProjectSetup
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import decide
from backend.rounds.observe import observe, policy_of
from backend.store import registry
from scripts.setup_project import check_label_config, read_label_config, start_first_training
from tests.conftest import RedisServer
from tests.unit.store.test_registry import meta, save

XML = label_config_xml(["cat", "dog"])


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        (XML.replace("</View>", ""), "not XML"),
        (XML.replace("dog", "frog"), r"\(cat, frog\) do not match the pool's classes \(dog, cat\)"),
        (XML.replace("$image", "$picture"), r'"\$picture".*write value="\$image"'),
    ],
)
def test_a_label_config_that_our_tasks_cannot_fill_is_refused_with_the_reason(
    xml: str, complaint: str
) -> None:
    with pytest.raises(LabelConfigError, match=complaint):
        check_label_config(xml, ["dog", "cat"])


def test_a_label_config_may_spell_and_arrange_the_classes_in_its_own_way() -> None:
    check_label_config(XML.replace("dog", "Dog").replace("400px", "300px"), ["dog", "cat"])


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.xml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.xml", "binary.xml"):
        with pytest.raises(LabelConfigError, match=f"{name} cannot be read"):
            read_label_config(tmp_path / name)
    (tmp_path / "my.xml").write_text(XML, encoding="utf-8")
    assert read_label_config(tmp_path / "my.xml") == XML


class Project:
    """A project in Label Studio with so many answers."""

    project_id = 7

    def __init__(self, annotations: int) -> None:
        self._annotations = annotations

    def counts(self) -> ProjectCounts:
        return ProjectCounts(self._annotations, self._annotations, skipped=0, open=0)


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer) -> Settings:
    return load_settings(_env_file=None, model_dir=tmp_path, redis_url=redis_server.url)


def start(settings: Settings, annotations: int) -> bool:
    return start_first_training(settings, cast(ProjectSetup, Project(annotations)))


def test_the_first_training_of_seed_labels_is_asked_for_once_and_outlives_a_lost_redis(
    settings: Settings, redis_server: RedisServer
) -> None:
    root = registry.project_root(settings.model_dir, 7)
    assert start(settings, 20)
    assert Queue("train", connection=Redis.from_url(redis_server.url)).job_ids == ["retrain-p7"]
    redis_server.flush()
    state = observe(root, TrainingQueue(redis_server.url), 7)
    assert decide(state, policy_of(settings), time.time()).train == "retrain"
    assert not start(settings, 20)  # set up again: it adds the lost job, and asks for no more
    assert observe(root, TrainingQueue(redis_server.url), 7).train_asked_at == state.train_asked_at
    assert Queue("train", connection=Redis.from_url(redis_server.url)).job_ids == ["retrain-p7"]


def test_without_labels_and_after_a_first_version_set_up_asks_for_no_training(
    settings: Settings, redis_server: RedisServer
) -> None:
    root = registry.project_root(settings.model_dir, 7)
    assert not start(settings, 0)
    assert not root.exists()
    save(root, meta(1))
    assert not start(settings, 20)
    assert not observe(root, TrainingQueue(redis_server.url), 7).is_training_asked
    assert Queue("train", connection=Redis.from_url(redis_server.url)).job_ids == []
