"""Refuse jobs that others wrote into Redis, with a real Redis and our real worker."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection
from rq import Callback, Queue, Repeat, Retry, Webhook
from rq.exceptions import NoSuchJobError
from rq.job import Job

from backend.queue.own_jobs import JOBS, JobName, OwnJob
from backend.queue.training_queue import TrainingQueue
from tests.conftest import RedisServer
from tests.patience import wait_for
from tests.unit.workers.test_processes import running

PROJECT = 7
RETRAIN = f"retrain-p{PROJECT}"
FUNCTION = "backend.workers.jobs.retrain"
HOOK = Webhook("http://127.0.0.1:9/", "finished")


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as connection:
        yield connection


@pytest.fixture
def foreign(connection: Redis) -> Queue:
    """Return the trainer's queue as an attacker with write access to Redis sees it."""
    return Queue("train", connection=connection, serializer="json")


def fetch(connection: Redis, job_id: str = RETRAIN) -> Job:
    return OwnJob.fetch(job_id, connection=connection, serializer="json")


@pytest.mark.parametrize("name", JOBS)
def test_our_own_job_is_accepted(
    name: JobName, redis_server: RedisServer, connection: Redis
) -> None:
    assert TrainingQueue(redis_server.url).enqueue(name, PROJECT)
    job = fetch(connection, f"{name}-p{PROJECT}")
    assert job.func_name == f"backend.workers.jobs.{name}"
    assert list(job.args) == [PROJECT]


def test_our_own_job_is_still_accepted_after_a_run_progress_and_a_failure(
    redis_server: RedisServer, connection: Redis
) -> None:
    ours = TrainingQueue(redis_server.url)
    ours.enqueue("retrain", PROJECT)
    job = fetch(connection)
    ours.report_step(job, "retrain")
    job.meta["progress"] = {"phase": "training", "done": 1, "total": 2, "since": 0.0}
    job.save_meta()  # type: ignore[no-untyped-call]
    with connection.pipeline() as pipe:
        job.prepare_for_execution("worker", pipe)
        pipe.execute()
    queue = Queue("train", connection=connection, serializer="json", job_class=OwnJob)
    with connection.pipeline() as pipe:
        job.retry(queue, pipe)
        pipe.execute()
    assert fetch(connection).retries_left == 4
    assert fetch(connection).meta["progress"]["phase"] == "training"


FOREIGN: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "another function": (("os.system", "touch here"), {}),
    "another function of ours": (("backend.workers.jobs._open", PROJECT), {}),
    "a function that only looks like ours": (
        ("backend.workers.jobs.retrain.os.system", PROJECT),
        {},
    ),
    "no argument": ((FUNCTION,), {}),
    "two arguments": ((FUNCTION, PROJECT, PROJECT), {}),
    "a text as argument": ((FUNCTION, str(PROJECT)), {}),
    "true as argument": ((FUNCTION, True), {}),
    "another project than its id says": ((FUNCTION, PROJECT + 1), {}),
    "keyword arguments": ((FUNCTION,), {"kwargs": {"project_id": PROJECT}}),
    "a success callback": ((FUNCTION, PROJECT), {"on_success": Callback("os.system")}),
    "a failure callback": ((FUNCTION, PROJECT), {"on_failure": Callback("os.system")}),
    "a stopped callback": ((FUNCTION, PROJECT), {"on_stopped": Callback("os.system")}),
    "a webhook": (
        (FUNCTION, PROJECT),
        {"webhooks": [HOOK]},
    ),
    "a repetition": ((FUNCTION, PROJECT), {"repeat": Repeat(times=3)}),
    "a time to live": ((FUNCTION, PROJECT), {"ttl": 60}),
    "a place at the front": ((FUNCTION, PROJECT), {"at_front": True, "retry": Retry(1, 0, True)}),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_job_that_differs_from_ours_is_dropped_with_a_log_line(
    what: str, foreign: Queue, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    arguments, options = FOREIGN[what]
    foreign.enqueue(*arguments, job_id=RETRAIN, **options)
    with pytest.raises(NoSuchJobError):
        fetch(connection)
    assert f"deleted job '{RETRAIN}' from Redis" in caplog.text
    assert not connection.exists(f"rq:job:{RETRAIN}")


@pytest.mark.parametrize("name", ["refit", "top_up", "refresh", "collect_reviews"])
def test_a_job_of_an_earlier_release_is_dropped_with_a_log_line(
    name: str, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = Queue("rank", connection=connection, serializer="json")
    ranks.enqueue(
        f"backend.workers.jobs.{name}", PROJECT, job_id=f"{name}-p{PROJECT}", retry=Retry(max=5),
        result_ttl=0,
    )  # fmt: skip
    with pytest.raises(NoSuchJobError):
        fetch(connection, f"{name}-p{PROJECT}")
    assert f"deleted job '{name}-p{PROJECT}' from Redis" in caplog.text


def test_a_job_that_depends_on_another_is_dropped(foreign: Queue, connection: Redis) -> None:
    before = foreign.enqueue(FUNCTION, 1, job_id="retrain-p1")
    foreign.enqueue(FUNCTION, PROJECT, job_id=RETRAIN, depends_on=before)
    with pytest.raises(NoSuchJobError):
        fetch(connection)


FIELDS: dict[str, dict[Any, Any]] = {
    "a method of an instance": {"data": json.dumps([FUNCTION, {"a": 1}, [PROJECT], {}])},
    "a pickle": {"data": b"\x80\x04cos\nsystem\n(S'touch here'\ntR."},
    "a compressed pickle": {"data": zlib.compress(b"cos\nsystem\n(S'touch here'\ntR.")},
    "JSON that nests deeply": {"data": zlib.compress(b"[" * 900)},
    "gigabytes of zeros": {"data": zlib.compress(bytes(50_000_000))},
    "no call at all": {"data": b""},
    "another queue": {"origin": "rank"},
    "a dependency": {"dependency_ids": '["x"]'},
    "an old dependency": {"dependency_id": "x"},
    "a group": {"group_id": "g"},
    "a rate limit": {"rate_limit_key": "k", "rate_limit_concurrency": 1},
    "a field that RQ may learn one day": {"run_as": "root"},
    "a name that is not text": {b"\xff\xfe": "x"},
    "much in a field": {"description": "x" * 100_000},
    "a status that RQ does not know": {"status": "owned"},
    "a time-out that is not a number": {"timeout": "soon"},
    "an invalid time": {"created_at": "yesterday"},
}  # fmt: skip


@pytest.mark.parametrize("what", FIELDS)
def test_a_tampered_job_is_dropped_and_can_be_enqueued_again(
    what: str, redis_server: RedisServer, connection: Redis
) -> None:
    queue = TrainingQueue(redis_server.url)
    queue.enqueue("retrain", PROJECT)
    connection.hset(f"rq:job:{RETRAIN}", mapping=FIELDS[what])
    with pytest.raises(NoSuchJobError):
        fetch(connection)
    assert queue.enqueue("retrain", PROJECT)
    assert fetch(connection).func_name == FUNCTION


def test_losing_redis_drops_no_job(
    redis_server: RedisServer, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    TrainingQueue(redis_server.url).enqueue("retrain", PROJECT)
    redis_server.stop()
    with pytest.raises(NoConnection):
        fetch(connection)
    redis_server.start()
    assert "dropped" not in caplog.text


def test_an_abandoned_job_runs_no_callback_in_the_clock(
    redis_server: RedisServer, connection: Redis, tmp_path: Path
) -> None:
    """RQ calls an abandoned job's failure callback in the process that finds it."""
    queue = TrainingQueue(redis_server.url)
    queue.enqueue("retrain", PROJECT)
    trace = tmp_path / "callback-ran"
    changed: dict[Any, Any] = {
        "status": "started",
        "failure_callback_name": "tests.unit.queue.test_own_jobs.leave_trace",
    }
    connection.hset(f"rq:job:{RETRAIN}", mapping={**changed, "description": str(trace)})
    connection.zadd("rq:wip:train", {f"{RETRAIN}:run": 1})
    queue.requeue_abandoned()
    assert not trace.exists()
    assert not connection.exists(f"rq:job:{RETRAIN}")


def leave_trace(job: Job, *_: Any) -> None:
    Path(job.description or "").touch()


def test_the_trainer_runs_no_foreign_job_from_redis(
    redis_server: RedisServer, connection: Redis, tmp_path: Path
) -> None:
    trace, log = tmp_path / "owned", tmp_path / "log"
    environment = {
        **os.environ,
        "REDIS_URL": redis_server.url,
        "MODEL_DIR": str(tmp_path / "models"),
        "DEVICE": "cpu",
    }
    ids = ["evil", "retrain-p1", "not an id!", "retrain-p2"]
    call: dict[Any, Any] = {
        "data": json.dumps(["os.system", None, [f"touch {trace}"], {}]),
        "origin": "train",
    }
    for job_id in ids:
        connection.hset(f"rq:job:{job_id}", mapping={**call, "status": "queued"})
        connection.rpush("rq:queue:train", job_id)
    connection.sadd("rq:queues", "rq:queue:train")
    with running("trainer", environment, log) as worker:

        def all_are_gone() -> bool:
            assert worker.poll() is None, log.read_text()
            return not connection.exists(*(f"rq:job:{job_id}" for job_id in ids))

        wait_for(all_are_gone, "the trainer to drop the jobs", show=log.read_text)
        assert worker.poll() is None, log.read_text()
    assert not trace.exists()
    assert all(f"deleted job {job_id!r}" in log.read_text() for job_id in ids)
