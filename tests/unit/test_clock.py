"""The clock with a real Redis and an oracle in Label Studio's place; time is an argument."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue

from backend import registry
from backend.clock import Clock, Watch
from backend.errors import LabelStudioError
from backend.labelstudio import Annotation, NewTask, Prediction, what_was_answered
from backend.settings import Settings, load_settings
from backend.training_queue import TrainingQueue
from scripts.oracle import OracleProject
from tests.conftest import RedisServer
from tests.unit.test_registry import meta, record
from tests.unit.test_registry import save as save_version

NOON = 1_700_000_000.0
PROJECT = 7


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = load_settings(
        _env_file=None, model_dir=tmp_path, redis_url=redis_server.url, retrain_after=3
    )
    registry.write_record(registry.project_root(tmp_path, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def project() -> OracleProject:
    own = OracleProject(("cat", "dog"))
    own.import_tasks([NewTask(f"img-{i}", {}) for i in range(9)])
    return own


@pytest.fixture
def clock(
    settings: Settings,
    queue: TrainingQueue,
    project: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> Clock:
    own = Clock(settings, queue)
    monkeypatch.setattr(own, "_watch", lambda _: Watch(PROJECT, project))  # type: ignore[arg-type]
    return own


@pytest.fixture
def trains(redis_server: RedisServer) -> Queue:
    return Queue("train", connection=Redis.from_url(redis_server.url))


def test_lost_webhooks_are_counted_once_a_moment_after_they_were_read(
    clock: Clock, queue: TrainingQueue, project: OracleProject
) -> None:
    project.answer(1, "cat")
    project.answer(2, "dog")
    clock.tick(NOON)
    assert queue.generation(PROJECT).n_new == 0  # their webhooks may be under way
    clock.tick(NOON + 2)
    assert queue.generation(PROJECT).n_new == 2
    clock.tick(NOON + 61)
    clock.tick(NOON + 63)
    assert queue.generation(PROJECT).n_new == 2


def test_a_webhook_that_was_under_way_is_not_counted_twice(
    clock: Clock, queue: TrainingQueue, project: OracleProject
) -> None:
    project.answer(1, "cat")
    clock.tick(NOON)
    queue.note_changes(PROJECT, 1, NOON + 0.5)
    clock.tick(NOON + 2)
    assert queue.generation(PROJECT).n_new == 1


def test_what_a_round_has_seen_meanwhile_is_not_missed(
    clock: Clock, settings: Settings, queue: TrainingQueue, project: OracleProject
) -> None:
    project.answer(1, "cat")
    clock.tick(NOON)
    root = registry.project_root(settings.model_dir, PROJECT)
    registry.write_seen(root, what_was_answered(project.annotations()))
    queue.finish_round(PROJECT, queue.note_changes(PROJECT, 1, NOON).generation, NOON)
    clock.tick(NOON + 2)
    assert queue.generation(PROJECT).n_new == 0


def test_an_edit_and_a_deletion_without_a_webhook_count_as_changes(
    clock: Clock, settings: Settings, queue: TrainingQueue, project: OracleProject
) -> None:
    project.answer(1, "cat")
    project.answer(2, "dog")
    root = registry.project_root(settings.model_dir, PROJECT)
    registry.write_seen(root, what_was_answered(project.annotations()))
    project.change(1, "dog")
    del project.answers[2]
    clock.tick(NOON)
    clock.tick(NOON + 2)
    assert queue.generation(PROJECT).n_new == 2


def test_a_retrain_that_is_due_is_enqueued_once(
    clock: Clock, queue: TrainingQueue, trains: Queue
) -> None:
    queue.note_changes(PROJECT, 3, NOON)
    clock.tick(NOON)
    clock.tick(NOON + 1)
    assert trains.job_ids == ["retrain-p7"]


@pytest.mark.parametrize(("train", "n_refits"), [("both", 1), ("head", 1), ("full", 0)])
def test_a_new_answer_is_given_to_a_head_unless_only_full_trainings_are_wanted(
    settings: Settings,
    queue: TrainingQueue,
    project: OracleProject,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    train: str,
    n_refits: int,
) -> None:
    own = Clock(settings.model_copy(update={"train": train}), queue)
    monkeypatch.setattr(own, "_watch", lambda _: Watch(PROJECT, project))  # type: ignore[arg-type]
    queue.note_changes(PROJECT, 1, NOON)
    own.tick(NOON)
    own.tick(NOON + 1)
    ranks = Queue("rank", connection=Redis.from_url(redis_server.url))
    assert ranks.job_ids.count(f"refit-p{PROJECT}") == n_refits


def test_one_answer_is_trained_a_minute_after_it_came(
    clock: Clock, queue: TrainingQueue, trains: Queue
) -> None:
    queue.note_changes(PROJECT, 1, NOON)
    clock.tick(NOON + 59)
    assert trains.job_ids == []
    clock.tick(NOON + 60)
    assert trains.job_ids == ["retrain-p7"]


def test_a_lost_redis_is_rebuilt_from_what_the_last_round_saw(
    clock: Clock,
    settings: Settings,
    queue: TrainingQueue,
    project: OracleProject,
    redis_server: RedisServer,
) -> None:
    project.answer(1, "cat")
    root = registry.project_root(settings.model_dir, PROJECT)
    registry.write_seen(root, what_was_answered(project.annotations()))
    for task_id in (2, 3, 4):
        project.answer(task_id, "dog")
    redis_server.flush()
    clock.tick(NOON)
    clock.tick(NOON + 2)
    assert queue.generation(PROJECT).n_new == 3


def test_the_ticks_go_on_while_label_studio_is_away(
    clock: Clock,
    queue: TrainingQueue,
    project: OracleProject,
    trains: Queue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def is_away() -> dict[int, list[Annotation]]:
        raise LabelStudioError("Label Studio cannot be reached")

    with monkeypatch.context() as away:
        away.setattr(project, "annotations", is_away)
        clock.tick(NOON)
        clock.tick(NOON + 60)
    assert caplog.text.count("cannot be reached") == 1
    queue.note_changes(PROJECT, 3, NOON + 61)
    clock.tick(NOON + 61)
    assert trains.job_ids == ["retrain-p7"]


def test_a_redis_that_comes_back_is_used_again(
    clock: Clock, queue: TrainingQueue, redis_server: RedisServer, trains: Queue
) -> None:
    redis_server.stop()
    clock.tick(NOON)
    redis_server.start()
    queue.note_changes(PROJECT, 3, NOON)
    clock.tick(NOON + 1)
    assert trains.job_ids == ["retrain-p7"]


def test_the_clock_keeps_whether_label_studio_answered(
    clock: Clock, queue: TrainingQueue, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.tick(NOON)
    assert queue.health()["label_studio"]["problem"] == ""

    def away(*_: object) -> None:
        raise LabelStudioError("Label Studio cannot be reached: check that it runs")

    monkeypatch.setattr(project, "counts", away)
    clock.tick(NOON + 60)
    seen = queue.health()["label_studio"]
    assert (seen["problem"], seen["checked_at"], seen["every_s"]) == (
        "Label Studio cannot be reached: check that it runs", NOON + 60, 60,
    )  # fmt: skip
    monkeypatch.undo()
    monkeypatch.setattr(clock, "_watch", lambda _: Watch(PROJECT, project))  # type: ignore[arg-type]
    clock.tick(NOON + 120)
    assert queue.health()["label_studio"]["problem"] == ""


class Health(BaseHTTPRequestHandler):
    """A backend that says it is up."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_the_clock_keeps_whether_the_backend_answers(
    settings: Settings, queue: TrainingQueue, project: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        clock = Clock(settings.model_copy(update={"backend_url": url}), queue)
        monkeypatch.setattr(clock, "_watch", lambda _: Watch(PROJECT, project))  # type: ignore[arg-type]
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        clock.tick(NOON)
        answering.join()
        assert queue.health()["backend"]["problem"] == ""
    clock.tick(NOON + 5)
    assert queue.health()["backend"]["problem"] == ""  # every ten seconds is enough
    clock.tick(NOON + 10)
    assert "does not answer" in queue.health()["backend"]["problem"]
    assert url in queue.health()["backend"]["problem"]


def test_open_tasks_are_ordered_anew_where_nobody_has_kept_what_is_open(
    clock: Clock, settings: Settings, project: OracleProject, redis_server: RedisServer
) -> None:
    root = registry.project_root(settings.model_dir, PROJECT)
    save_version(root, meta(1))
    registry.promote(root, "r0001")
    task_id = next(iter(project.by_task))
    project.import_predictions({task_id: Prediction("cat", 0.5, 0.5, "r0001")})
    project.switch_model_version("r0001")
    ranks = Queue("rank", connection=Redis.from_url(redis_server.url))
    registry.write_open_images(root, datetime.now(UTC), [])
    clock.tick(NOON)
    assert "refresh-p7" not in ranks.job_ids
    (root / "open.json").unlink()
    clock.tick(NOON + 60)
    assert "refresh-p7" in ranks.job_ids


def test_one_projects_good_answer_does_not_hide_anothers_bad_one(
    clock: Clock, queue: TrainingQueue, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = OracleProject(("cat", "dog"))

    def away() -> None:
        raise LabelStudioError("Label Studio has no project 8: run set-up")

    monkeypatch.setattr(gone, "counts", away)
    with pytest.raises(LabelStudioError):
        clock._look(Watch(8, gone), NOON)  # type: ignore[arg-type]
    clock._look(Watch(PROJECT, project), NOON)  # type: ignore[arg-type]
    assert queue.health()["label_studio"]["problem"] == "Label Studio has no project 8: run set-up"


def test_a_damaged_file_of_one_project_does_not_keep_the_clock_from_the_others(
    clock: Clock, settings: Settings, project: OracleProject, redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(clock, "_watch", lambda number: Watch(number, project))  # type: ignore[arg-type]
    damaged = registry.project_root(settings.model_dir, 3)  # before ours
    registry.write_record(damaged, record(3))
    (damaged / "current").write_text("[" * 100_000)
    ranks = Queue("rank", connection=Redis.from_url(redis_server.url))
    clock.tick(NOON)
    assert "top_up-p7" in ranks.job_ids
    assert f"{damaged}/current is damaged" in caplog.text
