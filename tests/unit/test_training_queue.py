"""The queue on a real Redis: when a retrain is due, jobs that are unique, and a Redis that goes
away.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from rq import Queue, SimpleWorker, get_current_job
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

from backend.errors import QueueError
from backend.training_queue import ANSWERED_KEPT_S, Generation, TrainingQueue
from tests.conftest import RedisServer

NOON = 1_700_000_000.0
PROJECT = 7


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def connection(redis_server: RedisServer) -> Redis:
    return Redis.from_url(redis_server.url)


def is_due(generation: Generation, now: float = NOON) -> bool:
    return generation.is_due(now, retrain_after=3, retrain_wait_s=60)


def test_nothing_is_due_before_anything_happened(queue: TrainingQueue) -> None:
    assert queue.generation(PROJECT) == Generation()
    assert not is_due(queue.generation(PROJECT))


def test_a_retrain_is_due_with_the_third_change(queue: TrainingQueue) -> None:
    assert not is_due(queue.note_changes(PROJECT, 2, NOON))
    assert is_due(queue.note_changes(PROJECT, 1, NOON))


def test_a_single_change_is_due_a_minute_after_it_was_made(queue: TrainingQueue) -> None:
    queue.note_changes(PROJECT, 1, NOON)
    generation = queue.note_changes(PROJECT, 1, NOON + 50)
    assert not is_due(generation, NOON + 59)
    assert is_due(generation, NOON + 60)


def test_start_training_is_due_at_once_and_answered_by_one_round(queue: TrainingQueue) -> None:
    forced = queue.note_changes(PROJECT, 0, NOON, is_forced=True)
    assert is_due(forced)
    queue.finish_round(PROJECT, forced.generation, NOON)
    assert not is_due(queue.generation(PROJECT), NOON + 999)


def test_changes_during_a_round_wait_at_most_since_its_start(queue: TrainingQueue) -> None:
    before = queue.note_changes(PROJECT, 3, NOON)
    queue.note_changes(PROJECT, 1, NOON + 30)
    queue.finish_round(PROJECT, before.generation, NOON + 10)
    after = queue.generation(PROJECT)
    assert (after.n_new, after.first_new_at) == (1, NOON + 10)
    assert not is_due(after, NOON + 69)
    assert is_due(after, NOON + 70)


def test_a_round_that_read_everything_leaves_nothing_waiting(queue: TrainingQueue) -> None:
    before = queue.note_changes(PROJECT, 3, NOON)
    queue.finish_round(PROJECT, before.generation, NOON)
    after = queue.generation(PROJECT)
    assert (after.n_new, after.first_new_at) == (0, None)


def test_after_an_error_a_retrain_waits_unless_somebody_forces_it(queue: TrainingQueue) -> None:
    queue.note_changes(PROJECT, 3, NOON)
    queue.postpone(PROJECT, NOON + 60)
    assert not is_due(queue.generation(PROJECT), NOON + 59)
    assert is_due(queue.generation(PROJECT), NOON + 60)
    assert is_due(queue.note_changes(PROJECT, 0, NOON + 1, is_forced=True), NOON + 1)


def test_a_head_is_due_with_every_new_answer_but_not_more_often_than_agreed(
    queue: TrainingQueue,
) -> None:
    assert not queue.generation(PROJECT).head_is_due(NOON)
    first = queue.note_changes(PROJECT, 1, NOON)
    assert first.head_is_due(NOON)
    queue.finish_refit(PROJECT, first.generation, NOON + 5)
    assert not queue.generation(PROJECT).head_is_due(NOON + 99)  # it knows the answer
    second = queue.note_changes(PROJECT, 1, NOON + 1)
    assert not second.head_is_due(NOON + 4.9)
    assert second.head_is_due(NOON + 5)


def test_answers_that_a_training_has_read_need_no_head(queue: TrainingQueue) -> None:
    read = queue.note_changes(PROJECT, 3, NOON)
    queue.finish_round(PROJECT, read.generation, NOON)
    assert not queue.generation(PROJECT).head_is_due(NOON)
    assert queue.note_changes(PROJECT, 1, NOON).head_is_due(NOON)


def test_answers_during_a_training_are_given_to_a_head_of_the_new_body(
    queue: TrainingQueue,
) -> None:
    read = queue.note_changes(PROJECT, 3, NOON)
    during = queue.note_changes(PROJECT, 1, NOON)
    queue.finish_refit(PROJECT, during.generation, NOON)  # a head of the old body knows it
    queue.finish_round(PROJECT, read.generation, NOON)
    assert queue.generation(PROJECT).head_is_due(NOON)


def test_a_head_that_ends_after_redis_was_lost_does_not_stand_in_the_way(
    queue: TrainingQueue,
) -> None:
    queue.note_changes(PROJECT, 1, NOON)
    queue.finish_refit(PROJECT, 500, NOON)
    assert queue.note_changes(PROJECT, 1, NOON).head_is_due(NOON)


def test_a_head_leaves_the_training_as_due_as_it_was(queue: TrainingQueue) -> None:
    generation = queue.note_changes(PROJECT, 3, NOON)
    queue.finish_refit(PROJECT, generation.generation, NOON)
    assert is_due(queue.generation(PROJECT))


def test_catching_up_adds_only_what_was_missed(queue: TrainingQueue) -> None:
    queue.note_changes(PROJECT, 2, NOON)
    assert queue.catch_up(PROJECT, 5, NOON) == 3
    assert queue.catch_up(PROJECT, 5, NOON) == 0
    assert queue.catch_up(PROJECT, 1, NOON) == 0
    assert queue.generation(PROJECT).n_new == 5


def test_a_lost_redis_is_rebuilt_by_catching_up(
    queue: TrainingQueue, redis_server: RedisServer
) -> None:
    queue.finish_round(PROJECT, queue.note_changes(PROJECT, 3, NOON).generation, NOON)
    queue.note_changes(PROJECT, 3, NOON)
    redis_server.flush()
    assert queue.catch_up(PROJECT, 3, NOON) == 3
    assert is_due(queue.generation(PROJECT))


def test_simultaneous_changes_are_all_counted(queue: TrainingQueue) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: queue.note_changes(PROJECT, 1, NOON), range(200)))
    assert queue.generation(PROJECT).n_new == 200


def test_a_round_that_ends_while_changes_come_in_loses_none(queue: TrainingQueue) -> None:
    for _ in range(20):
        before = queue.note_changes(PROJECT, 1, NOON)
        with ThreadPoolExecutor(4) as threads:
            notes = [threads.submit(queue.note_changes, PROJECT, 1, NOON) for _ in range(6)]
            queue.finish_round(PROJECT, before.generation, NOON)
            [note.result() for note in notes]
        after = queue.generation(PROJECT)
        assert after.n_new == 6
        assert after.first_new_at == NOON
        queue.finish_round(PROJECT, after.generation, NOON)


def test_projects_do_not_mix(queue: TrainingQueue) -> None:
    queue.note_changes(1, 3, NOON)
    assert queue.generation(2).n_new == 0
    assert queue.enqueue_retrain(1)
    assert queue.enqueue_retrain(2)


def test_a_job_is_enqueued_once_while_it_waits_by_name_and_as_json(
    queue: TrainingQueue, connection: Redis
) -> None:
    assert queue.enqueue_retrain(PROJECT)
    assert not queue.enqueue_retrain(PROJECT)
    assert Queue("train", connection=connection).job_ids == ["retrain-p7"]
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    assert (job.func_name, job.args) == ("backend.jobs.retrain", [7])
    assert b"pickle" not in job.to_dict()["data"]


def test_ranking_never_waits_behind_a_training(queue: TrainingQueue, connection: Redis) -> None:
    queue.enqueue_retrain(PROJECT)
    queue.enqueue_top_up(PROJECT)
    queue.enqueue_refresh(PROJECT)
    assert Queue("rank", connection=connection).job_ids == ["top_up-p7", "refresh-p7"]


def test_a_finished_job_may_be_enqueued_again_at_once(
    queue: TrainingQueue, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.jobs.top_up", lambda _: None)
    queue.enqueue_top_up(PROJECT)
    ranks = Queue("rank", connection=connection, serializer="json")
    SimpleWorker([ranks], connection=connection, serializer="json").work(burst=True)
    assert queue.enqueue_top_up(PROJECT)


def test_a_job_whose_worker_died_goes_back_into_its_queue_and_ends_well(
    queue: TrainingQueue, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue_retrain(PROJECT)
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
    connection.delete(*connection.scan_iter("rq:execution:*"))
    queue.put_abandoned_back()
    assert trains.job_ids == ["retrain-p7"]

    # Run again, it ends well, and leaves nothing in the way of the next.
    def retrain(_: int) -> None:
        running = get_current_job()
        assert running is not None
        queue.forget_dead_executions(running)

    monkeypatch.setattr("backend.jobs.retrain", retrain)
    SimpleWorker([trains], connection=connection, serializer="json").work(burst=True)
    assert queue.jobs(PROJECT) == []
    assert queue.enqueue_retrain(PROJECT)


def test_a_training_that_keeps_dying_waits_unless_somebody_forces_the_next_try(
    queue: TrainingQueue, connection: Redis
) -> None:
    queue.enqueue_retrain(PROJECT)
    trains = Queue("train", connection=connection, serializer="json")
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    trains.remove(job)
    job.set_status(JobStatus.FAILED)
    trains.failed_job_registry.add(job, ttl=120)
    assert not queue.enqueue_retrain(PROJECT)
    assert queue.enqueue_retrain(PROJECT, is_forced=True)
    assert trains.job_ids == ["retrain-p7"]


def test_a_running_jobs_progress_shows_phase_share_and_time_left(
    queue: TrainingQueue, connection: Redis
) -> None:
    queue.enqueue_retrain(PROJECT)
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    queue.report_progress(job, "training", 0, 100)
    job.meta["progress"]["since"] -= 10  # ten seconds ago
    queue.report_progress(job, "training", 25, 100)
    [shown] = queue.jobs(PROJECT)
    assert (shown["job"], shown["phase"], shown["done"]) == ("retrain", "training", 25)
    assert shown["seconds_left"] == pytest.approx(30, abs=1)


def test_old_answers_are_forgotten_when_new_ones_come_and_never_by_being_read(
    queue: TrainingQueue,
) -> None:
    queue.note_changes(PROJECT, 1, NOON, answered=["a"])
    queue.note_changes(PROJECT, 1, NOON + 1, answered=["b"])
    assert queue.answered_since(PROJECT, NOON + ANSWERED_KEPT_S + 9) == set()
    assert queue.answered_since(PROJECT, NOON) == {"a", "b"}
    queue.note_changes(PROJECT, 1, NOON + 1 + ANSWERED_KEPT_S, answered=["c"])
    assert queue.answered_since(PROJECT, NOON) == {"c"}


def test_a_worker_that_was_killed_counts_no_more_once_its_sign_of_life_is_gone(
    queue: TrainingQueue, connection: Redis
) -> None:
    workers = [SimpleWorker(["train"], connection=connection) for _ in range(2)]
    for worker in workers:
        worker.register_birth()  # type: ignore[no-untyped-call]
    assert queue.worker_counts() == {"train": 2, "rank": 0}
    hostname = str(workers[0].hostname)
    assert queue.worker_seen_at(hostname) == pytest.approx(time.time(), abs=60)
    assert queue.worker_seen_at("elsewhere") == 0
    for worker in workers:
        connection.delete(worker.key)  # it expires, and RQ's lists of workers keep the name
    assert queue.worker_counts() == {"train": 0, "rank": 0}
    assert queue.worker_seen_at(hostname) == 0
    assert connection.scard("rq:workers") == 2


def test_the_last_errors_are_kept_newest_first(queue: TrainingQueue) -> None:
    for number in range(12):
        queue.note_error(PROJECT, "training", f"error {number}")
    messages = [error["message"] for error in queue.errors(PROJECT)]
    assert messages == [f"error {number}" for number in range(11, 1, -1)]


def test_a_redis_that_is_gone_is_one_clear_error_without_the_password(
    queue: TrainingQueue, redis_server: RedisServer
) -> None:
    redis_server.stop()
    with pytest.raises(QueueError, match="REDIS_URL"):
        queue.note_changes(PROJECT, 1, NOON)
    closed = TrainingQueue("redis://:hunter2@127.0.0.1:9/0")
    with pytest.raises(QueueError) as caught:
        closed.enqueue_retrain(PROJECT)
    assert "hunter2" not in str(caught.value)
