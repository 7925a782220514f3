"""Replace jobs that an earlier release left in Redis under a module that has moved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from redis import Redis
from rq import Queue, Retry, SimpleWorker
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from backend.queue.own_jobs import JOBS, JobName, OwnJob
from backend.queue.training_queue import FAILURE_TTL_S, TrainingQueue
from tests.conftest import RedisServer

PROJECT = 7


@pytest.fixture
def connection(redis_server: RedisServer) -> Redis:
    return Redis.from_url(redis_server.url)


def start(queue: Queue, job: Job) -> None:
    """Have a worker begin the job and be killed."""
    worker = SimpleWorker([queue], connection=queue.connection, serializer="json")
    worker.register_birth()  # type: ignore[no-untyped-call]
    dequeued = queue.dequeue_any([queue], None, queue.connection, serializer="json")
    assert dequeued is not None
    assert dequeued[0].id == job.id
    worker.prepare_execution(dequeued[0])
    worker.prepare_job_execution(dequeued[0])


def start_long_ago(queue: Queue, job: Job) -> None:
    start(queue, job)
    registry = StartedJobRegistry(queue=queue)
    [run] = queue.connection.zrange(registry.key, 0, -1)
    queue.connection.zadd(registry.key, {run: time.time() - 3600})  # type: ignore[type-var]
    queue.connection.delete(*queue.connection.scan_iter("rq:execution:*"))


def retry(queue: Queue, job: Job) -> None:
    start(queue, job)
    with queue.connection.pipeline() as pipe:
        job.retry(queue, pipe)
        pipe.execute()


def schedule(queue: Queue, job: Job) -> None:
    queue.remove(job)
    job.set_status(JobStatus.SCHEDULED)
    registry = ScheduledJobRegistry(queue=queue)  # type: ignore[no-untyped-call]
    registry.schedule(job, datetime(2040, 1, 1, tzinfo=UTC))


def fail(queue: Queue, job: Job) -> None:
    queue.remove(job)
    job.set_status(JobStatus.FAILED)
    FailedJobRegistry(queue=queue).add(job, ttl=FAILURE_TTL_S)


STATES: Mapping[str, Callable[[Queue, Job], object]] = {
    "waiting": lambda *_: None,
    "started by a worker that was killed just now": start,
    "started by a worker that was killed long ago": start_long_ago,
    "to be retried": retry,
    "scheduled for a retry": schedule,
    "failed": fail,
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", JOBS)
def test_the_next_look_replaces_a_job_of_an_earlier_release(
    name: JobName, state: str, redis_server: RedisServer, connection: Redis,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    old_queue = Queue(JOBS[name][0], connection=connection, serializer="json")
    id_ = f"{name}-p{PROJECT}"
    old = old_queue.enqueue(
        f"backend.jobs.{name}", PROJECT, job_id=id_, retry=Retry(max=5), result_ttl=0,
        failure_ttl=FAILURE_TTL_S,
    )  # fmt: skip
    STATES[state](old_queue, old)

    # As the clock does.
    queue = TrainingQueue(redis_server.url)
    queue.requeue_abandoned()
    assert queue.enqueue(name, PROJECT)

    assert f"deleted job '{id_}' from Redis" in caplog.text
    assert old_queue.job_ids == [id_]
    new = OwnJob.fetch(id_, connection, "json")
    assert new.func_name == f"backend.workers.jobs.{name}"
    assert new.get_status() == JobStatus.QUEUED
    # Nothing is left of the old job that could end, repeat or fail the new one.
    left = {key.decode() for key in connection.scan_iter("rq:*")}
    assert f"rq:executions:{id_}" not in left
    assert not left & {f"rq:{kind}:{old_queue.name}" for kind in ("wip", "scheduled", "failed")}

    ran: list[int] = []
    monkeypatch.setattr(f"backend.workers.jobs.{name}", ran.append)
    ours = Queue(old_queue.name, connection=connection, serializer="json", job_class=OwnJob)
    SimpleWorker([ours], connection=connection, serializer="json", job_class=OwnJob).work(
        burst=True
    )
    assert ran == [PROJECT]
    assert queue.jobs(PROJECT) == []
    assert queue.enqueue(name, PROJECT)


@pytest.mark.parametrize("name", JOBS)
def test_a_worker_drops_a_waiting_job_of_an_earlier_release(
    name: JobName, redis_server: RedisServer, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    old_queue = Queue(JOBS[name][0], connection=connection, serializer="json")
    old_queue.enqueue(f"backend.jobs.{name}", PROJECT, job_id=f"{name}-p{PROJECT}")
    ours = Queue(old_queue.name, connection=connection, serializer="json", job_class=OwnJob)
    SimpleWorker([ours], connection=connection, serializer="json", job_class=OwnJob).work(
        burst=True
    )
    assert f"deleted job '{name}-p{PROJECT}' from Redis" in caplog.text
    assert TrainingQueue(redis_server.url).enqueue(name, PROJECT)
