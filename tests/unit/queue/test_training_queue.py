"""Test hints, unique jobs and a lost connection on a real Redis."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from redis import Redis
from rq import Queue, SimpleWorker, get_current_job
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

from backend.base.errors import QueueError
from backend.queue import training_queue
from backend.queue.training_queue import (
    HINTS_KEPT_S,
    IMAGE_ID_LENGTH,
    IMAGES_KEPT,
    IMAGES_PER_HINT,
    Hints,
    TrainingQueue,
)
from tests.conftest import RedisServer

NOON = 1_700_000_000.0
PROJECT = 7


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def connection(redis_server: RedisServer) -> Redis:
    return Redis.from_url(redis_server.url)


def test_a_new_project_has_no_hints(queue: TrainingQueue) -> None:
    assert queue.hints(PROJECT) == Hints()
    assert queue.annotated_since(PROJECT, 0.0) == {}


def test_a_hint_records_its_time_and_the_annotated_images(
    queue: TrainingQueue, connection: Redis
) -> None:
    queue.hint(PROJECT, NOON, ["a", "b"])
    queue.hint(PROJECT, NOON + 5, ["b"])
    queue.hint(PROJECT, NOON + 9)  # a deletion, which names no image
    assert queue.hints(PROJECT).hinted_at == NOON + 9
    assert queue.annotated_since(PROJECT, NOON) == {"a": NOON, "b": NOON + 5}
    assert queue.annotated_since(PROJECT, NOON + 1) == {"b": NOON + 5}
    assert Queue("rank", connection=connection).job_ids == ["rank-p7"]


def test_ten_presses_of_start_training_request_one_look(
    queue: TrainingQueue, connection: Redis
) -> None:
    for second in range(10):
        queue.ask_for_training(PROJECT, NOON + second)
    assert queue.hints(PROJECT).train_asked_at == NOON + 9
    assert Queue("rank", connection=connection).job_ids == ["rank-p7"]
    assert connection.hlen("tightloop:p7:hints") == 2  # with the number of looks


def test_a_request_to_look_for_new_images_is_remembered_with_its_time(
    queue: TrainingQueue, connection: Redis
) -> None:
    queue.ask_for_rescan(PROJECT, NOON)
    assert queue.hints(PROJECT).rescan_asked_at == NOON
    assert queue.hints(PROJECT).train_asked_at == 0
    assert Queue("rank", connection=connection).job_ids == ["rank-p7"]


def test_one_webhook_and_all_together_store_a_bounded_number_of_images(
    queue: TrainingQueue, connection: Redis
) -> None:
    million = [f"image {n}" for n in range(1_000_000)]
    queue.hint(PROJECT, NOON, ["x" * (IMAGE_ID_LENGTH + 1), *million])
    assert len(queue.annotated_since(PROJECT, NOON)) == IMAGES_PER_HINT
    assert all(len(i) <= IMAGE_ID_LENGTH for i in queue.annotated_since(PROJECT, NOON))
    for n in range(1, IMAGES_KEPT // IMAGES_PER_HINT + 3):
        some = million[n * IMAGES_PER_HINT : (n + 1) * IMAGES_PER_HINT]
        queue.hint(PROJECT, NOON + n, some)
    kept = queue.annotated_since(PROJECT, NOON)
    assert len(kept) == IMAGES_KEPT
    assert "image 12000" in kept  # the newest stay
    assert {key.decode() for key in connection.scan_iter("tightloop:*")} == {
        "tightloop:p7:hints", "tightloop:p7:answered",
    }  # fmt: skip


def test_simultaneous_hints_are_all_kept(queue: TrainingQueue) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: queue.hint(PROJECT, NOON, [f"image {n}"]), range(200)))
    assert len(queue.annotated_since(PROJECT, NOON)) == 200


def test_the_number_of_requested_looks_is_counted(queue: TrainingQueue, connection: Redis) -> None:
    queue.notify_clock(PROJECT)  # as a finished job does, which must not enqueue itself
    assert queue.hints(PROJECT).looks == 1
    assert Queue("rank", connection=connection).job_ids == []
    queue.request_look(PROJECT)
    assert queue.hints(PROJECT).looks == 2
    assert Queue("rank", connection=connection).job_ids == ["rank-p7"]


def test_projects_do_not_mix(queue: TrainingQueue) -> None:
    queue.hint(1, NOON, ["a"])
    assert queue.hints(2) == Hints()
    assert queue.annotated_since(2, 0.0) == {}
    assert queue.enqueue("retrain", 1)
    assert queue.enqueue("retrain", 2)


def test_a_job_is_enqueued_once_while_it_waits_by_name_and_as_json(
    queue: TrainingQueue, connection: Redis
) -> None:
    assert queue.enqueue("retrain", PROJECT)
    assert not queue.enqueue("retrain", PROJECT)
    assert Queue("train", connection=connection).job_ids == ["retrain-p7"]
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    assert (job.func_name, job.args) == ("backend.workers.jobs.retrain", [7])
    assert b"pickle" not in job.to_dict()["data"]


def test_ranking_never_waits_behind_a_training(queue: TrainingQueue, connection: Redis) -> None:
    queue.enqueue("retrain", PROJECT)
    queue.enqueue("rank", PROJECT)
    assert Queue("train", connection=connection).job_ids == ["retrain-p7"]
    assert Queue("rank", connection=connection).job_ids == ["rank-p7"]


def test_a_finished_job_can_be_enqueued_again_immediately(
    queue: TrainingQueue, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.workers.jobs.rank", lambda _: None)
    queue.enqueue("rank", PROJECT)
    ranks = Queue("rank", connection=connection, serializer="json")
    SimpleWorker([ranks], connection=connection, serializer="json").work(burst=True)
    assert queue.enqueue("rank", PROJECT)


@pytest.mark.parametrize("expires", ["before the next run", "during the next run"])
def test_a_job_whose_worker_died_returns_to_its_queue_and_succeeds(
    queue: TrainingQueue, connection: Redis, monkeypatch: pytest.MonkeyPatch, expires: str
) -> None:
    queue.enqueue("retrain", PROJECT)
    trains = Queue("train", connection=connection, serializer="json")
    worker = SimpleWorker([trains], connection=connection, serializer="json")
    worker.register_birth()  # type: ignore[no-untyped-call]
    dequeued = trains.dequeue_any([trains], None, connection, serializer="json")
    assert dequeued is not None
    job = dequeued[0]
    worker.prepare_execution(job)
    worker.prepare_job_execution(job)
    assert trains.job_ids == []
    # The worker died an hour ago: its last heartbeat is long past.
    registry = StartedJobRegistry(queue=trains)
    [entry] = connection.zrange(registry.key, 0, -1)
    connection.zadd(registry.key, {entry: time.time() - 3600})  # type: ignore[type-var]
    [record] = connection.scan_iter("rq:execution:*")
    if expires == "before the next run":
        connection.delete(record)
    queue.requeue_abandoned()
    assert trains.job_ids == ["retrain-p7"]

    # The second run succeeds, so it is not tried again, and it does not block the next job.
    runs: list[int] = []

    def retrain(project_id: int) -> None:
        runs.append(project_id)
        running = get_current_job()
        assert running is not None
        queue.forget_dead_executions(running)
        connection.delete(record)

    monkeypatch.setattr("backend.workers.jobs.retrain", retrain)
    SimpleWorker([trains], connection=connection, serializer="json").work(burst=True)
    assert runs == [PROJECT]
    assert queue.jobs(PROJECT) == []
    assert queue.enqueue("retrain", PROJECT)


def test_a_lease_from_before_the_clock_was_set_back_ends_as_soon_as_any_other(
    queue: TrainingQueue, connection: Redis
) -> None:
    registry = StartedJobRegistry(queue=Queue("train", connection=connection, serializer="json"))
    connection.zadd(registry.key, {"retrain-p7:run": time.time() + 3600})
    queue.requeue_abandoned()
    lease_s = connection.zscore(registry.key, "retrain-p7:run") - time.time()  # type: ignore[operator]
    assert lease_s <= training_queue.LEASE_S


def test_a_training_that_keeps_dying_waits_unless_a_retry_is_forced(
    queue: TrainingQueue, connection: Redis
) -> None:
    queue.enqueue("retrain", PROJECT)
    trains = Queue("train", connection=connection, serializer="json")
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    trains.remove(job)
    job.set_status(JobStatus.FAILED)
    trains.failed_job_registry.add(job, ttl=120)
    assert not queue.enqueue("retrain", PROJECT)
    assert queue.enqueue("retrain", PROJECT, is_forced=True)
    assert trains.job_ids == ["retrain-p7"]


def test_a_running_jobs_progress_shows_phase_share_and_time_left(
    queue: TrainingQueue, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue("retrain", PROJECT)
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    monkeypatch.setattr(training_queue, "time", SimpleNamespace(time=lambda: NOON))
    queue.report_progress(job, "training", 0, 100)
    monkeypatch.setattr(training_queue, "time", SimpleNamespace(time=lambda: NOON + 10))
    queue.report_progress(job, "training", 25, 100)
    [shown] = queue.jobs(PROJECT)
    assert (shown["job"], shown["phase"], shown["done"]) == ("retrain", "training", 25)
    assert shown["seconds_left"] == pytest.approx(30)


def test_the_time_left_of_resumed_work_ignores_what_was_done_before(
    queue: TrainingQueue, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue("retrain", PROJECT)
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    monkeypatch.setattr(training_queue, "time", SimpleNamespace(time=lambda: NOON))
    queue.report_progress(job, "training", 60, 100)
    monkeypatch.setattr(training_queue, "time", SimpleNamespace(time=lambda: NOON + 10))
    queue.report_progress(job, "training", 70, 100)
    [shown] = queue.jobs(PROJECT)
    assert (shown["done"], shown["total"]) == (70, 100)
    assert shown["seconds_left"] == pytest.approx(30)


def test_old_annotated_images_are_forgotten_when_new_ones_arrive_but_not_when_read(
    queue: TrainingQueue,
) -> None:
    queue.hint(PROJECT, NOON, ["a"])
    queue.hint(PROJECT, NOON + 1, ["b"])
    assert queue.annotated_since(PROJECT, NOON + HINTS_KEPT_S + 9) == {}
    assert queue.annotated_since(PROJECT, NOON).keys() == {"a", "b"}
    queue.hint(PROJECT, NOON + 1 + HINTS_KEPT_S, ["c"])
    assert queue.annotated_since(PROJECT, NOON).keys() == {"c"}


def test_a_killed_worker_is_not_counted_after_its_heartbeat_expired(
    queue: TrainingQueue, connection: Redis
) -> None:
    began = int(time.time())
    workers = [SimpleWorker(["train"], connection=connection) for _ in range(2)]
    for worker in workers:
        worker.register_birth()  # type: ignore[no-untyped-call]
    assert queue.worker_counts() == {"train": 2, "rank": 0}
    hostname = str(workers[0].hostname)
    assert began <= queue.worker_seen_at(hostname) <= time.time()
    assert queue.worker_seen_at("elsewhere") == 0
    for worker in workers:
        connection.delete(worker.key)  # it expires, and RQ's lists of workers keep the name
    assert queue.worker_counts() == {"train": 0, "rank": 0}
    assert queue.worker_seen_at(hostname) == 0
    assert connection.scard("rq:workers") == 2


def test_a_jobs_step_is_shown_by_name_without_the_previous_steps_progress(
    queue: TrainingQueue, connection: Redis
) -> None:
    queue.enqueue("rank", PROJECT)
    assert [job["job"] for job in queue.jobs(PROJECT)] == ["rank"]
    job = Job.fetch("rank-p7", connection=connection, serializer="json")
    queue.report_step(job, "refit")
    queue.report_progress(job, "embedding the pool", 1, 2)
    queue.report_step(job, "top_up")
    [shown] = queue.jobs(PROJECT)
    assert (shown["job"], shown["queue"]) == ("top_up", "rank")
    assert "phase" not in shown


def test_an_unreachable_redis_is_one_clear_error_without_the_password(
    queue: TrainingQueue, redis_server: RedisServer
) -> None:
    redis_server.stop()
    with pytest.raises(QueueError, match="REDIS_URL"):
        queue.hint(PROJECT, NOON)
    closed = TrainingQueue("redis://:hunter2@127.0.0.1:9/0")
    with pytest.raises(QueueError) as caught:
        closed.enqueue("retrain", PROJECT)
    assert "hunter2" not in str(caught.value)
