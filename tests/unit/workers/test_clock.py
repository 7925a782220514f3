"""Run the clock with a real Redis and an oracle in place of Label Studio; time is an argument."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus

from backend.base.errors import LabelConfigError, LabelStudioError
from backend.base.labeling import NewTask, Prediction
from backend.base.settings import Settings, load_settings
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import decide
from backend.rounds.observe import observe
from backend.store.project_record import (
    begin_detaching,
    project_root,
    read_record,
    write_record,
)
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.workers import clock as clocks
from backend.workers.clock import FULL_READ_EVERY_S, Clock
from scripts.research.oracle import OracleProject
from tests.conftest import RedisServer
from tests.unit.labelstudio.project_server import TOKEN, serving_projects
from tests.unit.rounds.test_connection import SharedConnection
from tests.unit.store.test_registry import meta, record
from tests.unit.store.test_registry import save as save_version

NOON = 1_700_000_000.0
PROJECT = 7


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = load_settings(
        _env_file=None, model_dir=tmp_path, redis_url=redis_server.url, retrain_after=3,
        batch_size=5,
    )  # fmt: skip
    write_record(project_root(tmp_path, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def root(settings: Settings) -> Path:
    return project_root(settings.model_dir, PROJECT)


@pytest.fixture
def store(root: Path) -> ProjectStore:
    return ProjectStore(root)


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def project() -> OracleProject:
    """Return a project with nine open tasks, so that no more images are due."""
    own = OracleProject(("cat", "dog"))
    own.import_tasks([NewTask(f"img-{i}", {}) for i in range(9)])
    return own


@pytest.fixture
def clock(
    settings: Settings,
    queue: TrainingQueue,
    project: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Clock]:
    own = Clock(settings, queue)
    monkeypatch.setattr(clocks, "open_project", lambda *_: project)
    yield own
    own.close()


@pytest.fixture
def trains(redis_server: RedisServer) -> Queue:
    return Queue("train", connection=Redis.from_url(redis_server.url))


@pytest.fixture
def ranks(redis_server: RedisServer) -> Queue:
    return Queue("rank", connection=Redis.from_url(redis_server.url))


def n_new(root: Path, queue: TrainingQueue) -> int:
    return observe(root, queue, PROJECT).n_new


def learn(store: ProjectStore, now: float) -> None:
    """Record all annotations as learned, as a training does."""
    learned = {a.annotation_id: a.digest for of in store.annotations().values() for a in of}
    store.record_learned(learned, now, trained_at=now, head_revision=store.facts().revision)


def test_annotations_of_lost_webhooks_are_counted_once_after_reading_label_studio(
    clock: Clock, root: Path, queue: TrainingQueue, project: OracleProject
) -> None:
    project.answer(1, "cat")
    project.answer(2, "dog")
    clock.tick(NOON)
    assert n_new(root, queue) == 2
    clock.tick(NOON + 61)
    assert n_new(root, queue) == 2


def test_an_annotation_read_before_its_webhook_arrived_is_counted_once(
    clock: Clock, root: Path, queue: TrainingQueue, project: OracleProject
) -> None:
    project.answer(1, "cat")
    clock.tick(NOON)
    queue.hint(PROJECT, NOON + 0.5, ["img-0"])
    assert n_new(root, queue) == 1
    clock.tick(NOON + 60)
    assert n_new(root, queue) == 1


def test_annotations_without_a_webhook_are_logged_once(
    clock: Clock, queue: TrainingQueue, project: OracleProject, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        clock.tick(NOON)
        project.answer(1, "cat")
        project.answer(2, "dog")
        clock.tick(NOON + 60)  # the webhook of the first has not arrived yet
        queue.hint(PROJECT, NOON + 60.5, ["img-0"])
        for second in (61, 62, 63, 120, 123):
            clock.tick(NOON + second)
    lines = [message for message in caplog.messages if "without a webhook" in message]
    assert lines == ["project 7: 1 changes arrived without a webhook"]


def test_annotations_that_a_training_learned_do_not_count_as_new(
    clock: Clock, root: Path, store: ProjectStore, queue: TrainingQueue, project: OracleProject
) -> None:
    project.answer(1, "cat")
    clock.tick(NOON)
    learn(store, NOON + 1)
    clock.tick(NOON + 60)
    assert n_new(root, queue) == 0


def test_an_edit_and_a_deletion_without_a_webhook_count_as_changes(
    clock: Clock, root: Path, store: ProjectStore, queue: TrainingQueue, project: OracleProject
) -> None:
    project.answer(1, "cat")
    project.answer(2, "dog")
    clock.tick(NOON)
    learn(store, NOON)
    project.change(1, "dog")
    del project.answers[2]
    clock.tick(NOON + 60)
    assert n_new(root, queue) == 2


def test_a_deleted_task_is_noticed_by_the_number_of_tasks(
    clock: Clock, root: Path, store: ProjectStore, queue: TrainingQueue, project: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    project.answer(1, "cat")
    clock.tick(NOON)
    learn(store, NOON)
    whole = project.read_tasks
    readings: list[object] = []

    def read_tasks(changed_after: object = None) -> object:
        readings.append(changed_after)
        return iter(()) if changed_after else whole()

    monkeypatch.setattr(project, "read_tasks", read_tasks)
    clock.tick(NOON + 60)
    assert readings == [readings[0]]  # only changes: no task is missing
    project.delete_tasks([1])
    clock.tick(NOON + 120)
    assert readings[1:] == [readings[1], None]
    assert store.counts().tasks == 8
    assert n_new(root, queue) == 1


def test_all_tasks_are_read_again_at_intervals(
    clock: Clock, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.tick(NOON)
    whole = project.read_tasks
    readings: list[bool] = []

    def read_tasks(changed_after: object = None) -> object:
        readings.append(changed_after is None)
        return whole()

    monkeypatch.setattr(project, "read_tasks", read_tasks)
    clock.tick(NOON + FULL_READ_EVERY_S - 1)
    clock.tick(NOON + FULL_READ_EVERY_S + 60)
    assert readings == [False, True]


def test_everything_is_read_at_once_after_the_clock_of_the_machine_was_set_back(
    clock: Clock, root: Path, queue: TrainingQueue, project: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clock.tick(NOON + 3600)
    whole = project.read_tasks
    readings: list[object] = []

    def read_tasks(changed_after: object = None) -> object:
        readings.append(changed_after)
        return whole()

    monkeypatch.setattr(project, "read_tasks", read_tasks)
    project.answer(1, "cat")
    clock.tick(NOON)
    assert readings == [None]
    assert n_new(root, queue) == 1


def test_a_request_from_before_the_clock_was_set_back_leads_to_one_training_run(
    clock: Clock, root: Path, store: ProjectStore, queue: TrainingQueue
) -> None:
    clock.tick(NOON + 3600)
    queue.ask_for_training(PROJECT, NOON + 3600.5)
    clock.tick(NOON)
    assert observe(root, queue, PROJECT).is_training_asked
    store.record(trained_at=NOON + 1)
    assert not observe(root, queue, PROJECT).is_training_asked


def test_webhooks_from_before_the_clock_was_set_back_do_not_count_forever(
    clock: Clock, root: Path, store: ProjectStore, queue: TrainingQueue, project: OracleProject
) -> None:
    clock.tick(NOON + 3600)
    project.answer(1, "cat")
    queue.hint(PROJECT, NOON + 3601, ["img-0"])
    clock.tick(NOON)
    assert n_new(root, queue) == 1
    learn(store, NOON + 1)
    assert n_new(root, queue) == 0


def test_a_retrain_that_is_due_is_enqueued_once(
    clock: Clock, queue: TrainingQueue, trains: Queue
) -> None:
    clock.tick(NOON)
    queue.hint(PROJECT, NOON, ["img-0", "img-1", "img-2"])
    clock.tick(NOON + 1)
    clock.tick(NOON + 2)
    assert trains.job_ids == ["retrain-p7"]


def test_the_next_tick_enqueues_a_lost_job_again(
    clock: Clock, queue: TrainingQueue, trains: Queue
) -> None:
    clock.tick(NOON)
    queue.ask_for_training(PROJECT, NOON)
    clock.tick(NOON + 1)
    trains.empty()  # type: ignore[no-untyped-call]
    clock.tick(NOON + 2)  # no look was requested
    assert trains.job_ids == ["retrain-p7"]


def test_start_training_retries_a_training_that_kept_dying(
    clock: Clock, queue: TrainingQueue, trains: Queue
) -> None:
    queue.enqueue("retrain", PROJECT)
    job = Job.fetch("retrain-p7", connection=trains.connection, serializer="json")
    trains.remove(job)
    job.set_status(JobStatus.FAILED)
    trains.failed_job_registry.add(job, ttl=120)
    clock.tick(NOON)
    queue.hint(PROJECT, NOON + 1, ["img-0", "img-1", "img-2"])
    clock.tick(NOON + 1)
    assert trains.job_ids == []  # or it would die every second
    queue.ask_for_training(PROJECT, NOON + 2)
    clock.tick(NOON + 2)
    assert trains.job_ids == ["retrain-p7"]


def test_a_dead_ranker_delays_no_training(
    clock: Clock, root: Path, queue: TrainingQueue, trains: Queue, ranks: Queue
) -> None:
    clock.tick(NOON)
    queue.hint(PROJECT, NOON + 1, ["img-0", "img-1", "img-2"])
    assert ranks.job_ids == ["rank-p7"]  # no worker takes it
    clock.tick(NOON + 2)
    assert trains.job_ids == ["retrain-p7"]
    assert n_new(root, queue) == 3


def test_start_training_survives_a_lost_redis(
    clock: Clock, queue: TrainingQueue, trains: Queue, redis_server: RedisServer
) -> None:
    clock.tick(NOON)
    queue.ask_for_training(PROJECT, NOON + 0.5)
    clock.tick(NOON + 1)
    redis_server.flush()
    assert trains.job_ids == []
    clock.tick(NOON + 2)
    assert trains.job_ids == ["retrain-p7"]


def test_a_deleted_project_is_named_once_stops_its_jobs_and_does_not_call_label_studio_down(
    settings: Settings, queue: TrainingQueue, store: ProjectStore, trains: Queue,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with serving_projects() as server:
        server.projects = {8: "2026"}
        access = {"label_studio_url": server.url, "label_studio_api_key": SecretStr(TOKEN)}
        own = Clock(settings.model_copy(update=access), queue)
        for second in (0, 1, 60, 61):
            queue.ask_for_training(PROJECT, NOON + second)
            own.tick(NOON + second)
        own.close()
    assert caplog.text.count("is gone from Label Studio") == 1
    assert "--forget 7" in store.facts().gone
    assert queue.health()["label_studio"]["problem"] == ""
    assert trains.job_ids == []


def test_a_restored_project_is_read_in_full_and_worked_on_again(
    clock: Clock, store: ProjectStore, project: OracleProject, trains: Queue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clock.tick(NOON)
    store.record(gone="it is gone")
    for task_id in (1, 2, 3):
        project.answer(task_id, "cat")
    whole, readings = project.read_tasks, []

    def read_tasks(changed_after: object = None) -> object:
        readings.append(changed_after)
        return whole()

    monkeypatch.setattr(project, "read_tasks", read_tasks)
    clock.tick(NOON + 1)
    assert trains.job_ids == []
    clock.tick(NOON + 60)
    assert readings == [None]
    assert store.facts().gone == ""
    assert trains.job_ids == ["retrain-p7"]


def test_a_failed_reading_is_repeated_soon_so_that_status_says_when_label_studio_is_back(
    clock: Clock, queue: TrainingQueue, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*_: object) -> None:
        raise LabelStudioError("Label Studio cannot be reached")

    with monkeypatch.context() as away:
        away.setattr(project, "read_tasks", is_away)
        clock.tick(NOON)
    clock.tick(NOON + 9)
    assert queue.health()["label_studio"]["problem"] == "Label Studio cannot be reached"
    clock.tick(NOON + 10)
    assert queue.health()["label_studio"]["problem"] == ""


@pytest.mark.parametrize(("train", "step"), [("both", "refit"), ("head", "refit"), ("full", None)])
def test_a_new_annotation_makes_a_head_due_unless_train_is_full(
    settings: Settings, queue: TrainingQueue, root: Path, store: ProjectStore,
    project: OracleProject, ranks: Queue, monkeypatch: pytest.MonkeyPatch,
    train: str, step: str | None,
) -> None:  # fmt: skip
    save_version(root, meta(1))
    Registry(root).promote("r0001")
    store.record(ordered_by="r0001", finish_outlook_of="r0001")
    project.import_predictions({1: Prediction("cat", 0.5, 0.5, "r0001")})
    project.switch_model_version("r0001")
    own = Clock(settings.model_copy(update={"train": train}), queue)
    monkeypatch.setattr(clocks, "open_project", lambda *_: project)
    project.answer(2, "cat")
    own.tick(NOON)
    own.tick(NOON + 1)
    own.close()
    assert ranks.job_ids == ([f"rank-p{PROJECT}"] if step else [])


def test_one_annotation_is_trained_a_minute_after_it_arrived(
    clock: Clock, project: OracleProject, trains: Queue
) -> None:
    project.answer(1, "cat")
    clock.tick(NOON)
    clock.tick(NOON + 59)
    assert trains.job_ids == []
    clock.tick(NOON + 60)
    assert trains.job_ids == ["retrain-p7"]


def test_new_annotations_are_found_again_after_redis_was_lost(
    clock: Clock, root: Path, store: ProjectStore, queue: TrainingQueue, project: OracleProject,
    redis_server: RedisServer,
) -> None:  # fmt: skip
    project.answer(1, "cat")
    clock.tick(NOON)
    learn(store, NOON)
    for task_id in (2, 3, 4):
        project.answer(task_id, "dog")
        queue.hint(PROJECT, NOON + 1, [f"img-{task_id - 1}"])
    redis_server.flush()
    clock.tick(NOON + 60)
    assert n_new(root, queue) == 3


def test_the_clock_keeps_ticking_while_label_studio_is_unreachable(
    clock: Clock, queue: TrainingQueue, project: OracleProject, trains: Queue,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def is_away(*_: object) -> None:
        raise LabelStudioError("Label Studio cannot be reached")

    with monkeypatch.context() as away:
        away.setattr(project, "read_tasks", is_away)
        clock.tick(NOON)
        clock.tick(NOON + 60)
        assert caplog.text.count("cannot be reached") == 1
        # Training does not depend on Label Studio.
        queue.hint(PROJECT, NOON + 61, ["img-0", "img-1", "img-2"])
        clock.tick(NOON + 61)
    assert trains.job_ids == ["retrain-p7"]


def test_an_unusable_label_config_is_reported_like_an_unreachable_label_studio(
    clock: Clock, queue: TrainingQueue, project: OracleProject, trains: Queue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def has_two_choices(*_: object) -> None:
        raise LabelConfigError("the label config has 2 Choices tags")

    with monkeypatch.context() as changed:
        changed.setattr(project, "read_tasks", has_two_choices)
        clock.tick(NOON)
        queue.hint(PROJECT, NOON + 61, ["img-0", "img-1", "img-2"])
        clock.tick(NOON + 61)
    assert queue.health()["label_studio"]["problem"] == "the label config has 2 Choices tags"
    assert trains.job_ids == ["retrain-p7"]


def test_a_class_that_was_removed_in_label_studio_is_noticed_within_a_minute(
    clock: Clock, root: Path, store: ProjectStore, project: OracleProject
) -> None:
    project.answer(1, "cat")
    clock.tick(NOON)
    learn(store, NOON)
    project.choices = ("dog", "frog")
    clock.tick(NOON + 61)
    found = read_record(root)
    assert found is not None
    assert (found.classes, found.removed_classes) == (("cat", "dog", "frog"), ("cat",))
    assert store.facts().revision > store.facts().head_revision  # so that a head is fitted
    assert store.facts().train_asked_at == 0
    project.choices = ("dog", "frog", "cat")
    clock.tick(NOON + 122)
    assert store.facts().train_asked_at > 0  # its annotation counts again


def test_the_problem_of_a_project_that_was_detached_is_forgotten(
    clock: Clock, root: Path, queue: TrainingQueue, project: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise LabelStudioError("refused")

    other = project_root(root.parent, PROJECT + 1)
    write_record(other, record(PROJECT + 1))
    with monkeypatch.context() as changed:
        changed.setattr(project, "read_tasks", refuse)
        clock.tick(NOON)
    assert queue.health()["label_studio"]["problem"] == "refused"
    begin_detaching(root)
    clock.tick(NOON + 61)
    assert queue.health()["label_studio"]["problem"] == ""


def test_losing_label_studio_and_its_return_are_logged_once_each(
    clock: Clock, project: OracleProject, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def is_away(*_: object) -> None:
        raise LabelStudioError("Label Studio cannot be reached")

    with monkeypatch.context() as away, caplog.at_level("INFO", "backend.workers.clock"):
        away.setattr(project, "read_tasks", is_away)
        for second in range(150):  # it is read every minute
            clock.tick(NOON + second)
        assert caplog.messages == ["Label Studio cannot be reached"]
        away.undo()
        for second in range(150, 200):
            clock.tick(NOON + second)
    assert caplog.messages == ["Label Studio cannot be reached", "all services respond again"]


def test_redis_is_used_again_when_it_returns(
    clock: Clock, queue: TrainingQueue, redis_server: RedisServer, trains: Queue
) -> None:
    redis_server.stop()
    clock.tick(NOON)
    redis_server.start()
    clock.tick(NOON + 1)
    queue.hint(PROJECT, NOON + 2, ["img-0", "img-1", "img-2"])
    clock.tick(NOON + 2)
    assert trains.job_ids == ["retrain-p7"]


def test_the_clock_records_whether_label_studio_responds(
    clock: Clock, queue: TrainingQueue, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.tick(NOON)
    assert queue.health()["label_studio"]["problem"] == ""

    def away(*_: object) -> None:
        raise LabelStudioError("Label Studio cannot be reached: check that it runs")

    with monkeypatch.context() as gone:
        gone.setattr(project, "n_tasks", away)
        clock.tick(NOON + 60)
    seen = queue.health()["label_studio"]
    assert (seen["problem"], seen["checked_at"], seen["every_s"]) == (
        "Label Studio cannot be reached: check that it runs", NOON + 60, 60,
    )  # fmt: skip
    clock.tick(NOON + 120)
    assert queue.health()["label_studio"]["problem"] == ""


class Health(BaseHTTPRequestHandler):
    """Stand in for a healthy backend."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_the_clock_records_whether_the_backend_responds(
    settings: Settings, queue: TrainingQueue, project: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        clock = Clock(settings.model_copy(update={"backend_url": url}), queue)
        monkeypatch.setattr(clocks, "open_project", lambda *_: project)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            clock.tick(NOON)
        finally:
            server.shutdown()
            thread.join()
        assert queue.health()["backend"]["problem"] == ""
    clock.tick(NOON + 5)
    assert queue.health()["backend"]["problem"] == ""  # every ten seconds is enough
    clock.tick(NOON + 10)
    assert "does not respond" in queue.health()["backend"]["problem"]
    assert url in queue.health()["backend"]["problem"]


def test_a_deleted_webhook_is_restored_only_while_the_backend_responds(
    settings: Settings, queue: TrainingQueue, project: OracleProject, store: ProjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        secrets = {"webhook_secret": SecretStr("secret"), "backend_password": SecretStr("password")}
        clock = Clock(settings.model_copy(update={"backend_url": url, **secrets}), queue)
        connection = SharedConnection()
        monkeypatch.setattr(clocks, "open_project", lambda *_: project)
        monkeypatch.setattr(clocks, "ProjectConnection", lambda *_: connection)
        store.record(connected_to=url)
        connection.webhook = "was deleted"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            clock.tick(NOON)
            assert connection.n_restored == 1
        finally:
            server.shutdown()
            thread.join()
    connection.backend = "was deleted"
    clock.tick(NOON + 60)  # for example, while the backend is restarted
    clock.close()
    assert connection.n_restored == 1
    assert store.facts().connection_problem == ""


@pytest.fixture
def ordered(root: Path, project: OracleProject) -> None:
    """Put r0001 in service and order tasks by it; Label Studio also has predictions of r0000."""
    save_version(root, meta(1))
    Registry(root).promote("r0001")
    for version in ("r0001", "r0000"):
        project.import_predictions({1: Prediction("cat", 0.5, 0.5, version)})
    project.switch_model_version("r0001")


@pytest.mark.usefixtures("ordered")
def test_open_tasks_are_reordered_if_label_studio_orders_by_another_version(
    clock: Clock, store: ProjectStore, project: OracleProject, ranks: Queue
) -> None:
    store.record(ordered_by="r0001", finish_outlook_of="r0001")
    clock.tick(NOON)
    assert ranks.job_ids == []
    project.switch_model_version("r0000")  # chosen by hand in Label Studio
    clock.tick(NOON + 60)
    assert store.facts().ordered_by == "r0000"
    assert ranks.job_ids == ["rank-p7"]


@pytest.mark.usefixtures("ordered")
def test_open_tasks_are_reordered_if_the_record_of_open_images_is_lost(
    clock: Clock, settings: Settings, root: Path, queue: TrainingQueue, ranks: Queue
) -> None:
    """After the database was lost, the dashboard shows no open images until they are reordered."""
    clock.tick(NOON)
    assert ranks.job_ids == ["rank-p7"]
    state = observe(root, queue, PROJECT)
    assert decide(state, settings, NOON).rank == "refresh"


def test_one_projects_success_does_not_hide_anothers_error(
    clock: Clock, settings: Settings, queue: TrainingQueue, project: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gone = OracleProject(("cat", "dog"))

    def away(*_: object) -> None:
        raise LabelStudioError("Label Studio has no project 3: run set-up")

    monkeypatch.setattr(gone, "read_tasks", away)
    write_record(project_root(settings.model_dir, 3), record(3))
    projects = {3: gone, PROJECT: project}
    monkeypatch.setattr(clocks, "open_project", lambda _, project_id: projects[project_id])
    clock.tick(NOON)  # project 7 is read after project 3
    assert queue.health()["label_studio"]["problem"] == "Label Studio has no project 3: run set-up"


@pytest.mark.parametrize(("setting", "is_over"), [("off", True), ("auto", False)])
def test_errors_of_adapting_are_over_once_it_is_switched_off(
    settings: Settings,
    queue: TrainingQueue,
    store: ProjectStore,
    clock: Clock,
    setting: str,
    is_over: bool,
) -> None:
    clock.tick(NOON - 60)
    store.record_error("adapting the body", "too little memory", step="adapt")
    store.record_failure("adapt", NOON, adapt_failures=2, adapt_error="x", pool_images=9_000)
    restarted = settings.model_copy(update={"adapt": setting})
    Clock(restarted, queue).tick(NOON)
    assert store.errors()[0].is_over is is_over
    assert store.facts().adapt_failures == (0 if is_over else 2)


def test_a_damaged_file_of_one_project_does_not_stop_the_others(
    clock: Clock, settings: Settings, queue: TrainingQueue, trains: Queue,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    damaged = project_root(settings.model_dir, 3)  # read before project 7
    write_record(damaged, record(3))
    (damaged / "current").write_text("[" * 100_000)
    queue.ask_for_training(PROJECT, NOON)
    clock.tick(NOON)
    assert "retrain-p7" in trains.job_ids
    assert f"{damaged}/current is damaged" in caplog.text


def test_state_of_an_earlier_release_in_redis_is_migrated_once(
    clock: Clock, store: ProjectStore, trains: Queue, redis_server: RedisServer
) -> None:
    connection = Redis.from_url(redis_server.url)
    connection.hset("tightloop:p7:generation", mapping={"generation": 5, "forced": 5, "trained": 4})
    connection.zadd("tightloop:p7:answered", {"read long ago": NOON - 1})
    for message in ("the older", "the newer"):
        error = {"at": "2026-01-01T12:00:00+00:00", "where": "training", "message": message}
        connection.lpush("tightloop:p7:errors", json.dumps(error))
    clock.tick(NOON)
    assert [error.message for error in store.errors()] == ["the newer", "the older"]
    assert trains.job_ids == ["retrain-p7"]  # it was requested by hand
    left = {key.decode() for key in connection.scan_iter("tightloop:p7:*")}
    assert left <= {"tightloop:p7:hints"}
