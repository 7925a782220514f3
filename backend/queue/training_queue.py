"""Enqueue jobs, and keep hints and heartbeats in Redis. No other module writes to Redis.

A hint means that something may have changed in a project. A hint is never treated as fact. The
clock reads Label Studio, so nothing is lost if Redis loses its data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import redis
import rq
from rq import Retry, worker_registration
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.utils import utcparse

from backend.base.errors import QueueError
from backend.base.labeling import CLOCK_SKEW_S
from backend.base.progress import seconds_left
from backend.queue.own_jobs import JOBS, MODULE, QUEUES, JobName, OwnJob, job_id

T = TypeVar("T")

# How long a permanently failed job blocks its id, so that it does not fail again every second.
FAILURE_TTL_S = 120
CLOCK_KEY = "tightloop:clock"
HEALTH_KEY = "tightloop:health"
# Limits on what webhooks can cause us to store for a project.
IMAGES_PER_HINT = 1_000
IMAGES_KEPT = 10_000
IMAGE_ID_LENGTH = 500
HINTS_KEPT_S = 24 * 3600.0
JOB_MONITORING_INTERVAL_S = 5
# With every heartbeat, RQ extends the lease of a running job to this long from now.
LEASE_S = JOB_MONITORING_INTERVAL_S + 60


@dataclass(frozen=True)
class Hints:
    """The latest hints about a project. Times are in seconds since the epoch; 0 means never."""

    looks: int = 0  # number of requests to check the project
    hinted_at: float = 0.0  # when a webhook last reported a change
    train_asked_at: float = 0.0  # when a person last requested training
    rescan_asked_at: float = 0.0  # when a person last requested a search for new images


@contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        # The error's text may contain the URL with the password.
        raise QueueError(
            f"Redis cannot be used ({type(error).__name__}): "
            "check that it is running, and check REDIS_URL"
        ) from error


def _raise_queue_errors(cls: type[T]) -> type[T]:
    """Decorate a class so that its methods raise QueueError instead of RedisError."""
    for name, method in vars(cls).copy().items():
        if callable(method):
            setattr(cls, name, _redis_errors()(method))
    return cls


@_raise_queue_errors
class TrainingQueue:
    """RQ's queues and the projects' hints in one Redis server. All methods may raise QueueError."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=10)
        self._queues = {
            name: rq.Queue(name, connection=self._redis, serializer="json", job_class=OwnJob)
            for name in QUEUES
        }

    # Hints

    def hint(self, project_id: int, now: float, annotated: Iterable[str] = ()) -> None:
        """Store a webhook's report of a change and of annotated images, and request a check."""
        named = islice((i for i in annotated if len(i) <= IMAGE_ID_LENGTH), IMAGES_PER_HINT)
        annotated_key = _key(project_id, "answered")
        with self._redis.pipeline() as pipe:
            if times := dict.fromkeys(named, now):
                pipe.zadd(annotated_key, times)
                pipe.zremrangebyscore(annotated_key, 0, now - HINTS_KEPT_S)
                pipe.zremrangebyrank(annotated_key, 0, -IMAGES_KEPT - 1)
            pipe.hset(_key(project_id), "hinted_at", now)
            pipe.execute()
        self.request_look(project_id)

    def ask_for_training(self, project_id: int, now: float) -> None:
        """Record that a person requested training, even without new labels; request a check."""
        self._redis.hset(_key(project_id), "train_asked_at", now)
        self.request_look(project_id)

    def ask_for_rescan(self, project_id: int, now: float) -> None:
        """Record that a person requested a search for new images; request a check."""
        self._redis.hset(_key(project_id), "rescan_asked_at", now)
        self.request_look(project_id)

    def request_look(self, project_id: int) -> None:
        """Make the ranker and the clock check the project now."""
        self.notify_clock(project_id)
        self.enqueue("rank", project_id)

    def notify_clock(self, project_id: int) -> None:
        """Make the clock check the project at its next tick, for example when a job ends."""
        self._redis.hincrby(_key(project_id), "looks", 1)

    def hints(self, project_id: int) -> Hints:
        """Return the latest hints about the project."""
        raw = self._redis.hgetall(_key(project_id))
        found = {_text(key): float(value) for key, value in raw.items()}
        return Hints(
            looks=int(found.get("looks", 0)),
            hinted_at=found.get("hinted_at", 0.0),
            train_asked_at=found.get("train_asked_at", 0.0),
            rescan_asked_at=found.get("rescan_asked_at", 0.0),
        )

    def annotated_since(self, project_id: int, since: float) -> dict[str, float]:
        """Return the images reported as annotated since `since`, with the times of the reports."""
        found: Any = self._redis.zrangebyscore(
            _key(project_id, "answered"), since, "+inf", withscores=True
        )
        return {_text(image_id): at for image_id, at in found}

    def forget_future(self, project_id: int, now: float) -> None:
        """Forget reports and requests later than `now`; the machine's clock was set back."""
        hints = self._redis.hgetall(_key(project_id))
        later = [name for name, at in hints.items() if float(at) > now + CLOCK_SKEW_S]
        if later:
            self._redis.hdel(_key(project_id), *later)
        self._redis.zremrangebyscore(_key(project_id, "answered"), now + CLOCK_SKEW_S, "+inf")

    def take_over_earlier_release(self, project_id: int) -> tuple[bool, list[dict[str, str]]]:
        """Delete what an earlier release stored in Redis; return whether training had been
        requested, and the recorded errors, newest first.
        """
        keys = [_key(project_id, part) for part in ("generation", "errors", "facts")]
        counted = {_text(k): float(v) for k, v in self._redis.hgetall(keys[0]).items()}
        errors = [json.loads(line) for line in self._redis.lrange(keys[1], 0, -1)]
        if counted:  # this key also contains annotated images that were read long ago
            keys.append(_key(project_id, "answered"))
        self._redis.delete(*keys)
        return counted.get("forced", 0) > counted.get("trained", 0), errors

    # Jobs (backend/workers/jobs.py explains what happens when a job dies)

    def enqueue(self, name: JobName, project_id: int, *, is_forced: bool = False) -> bool:
        """Enqueue a project's job; return False if it is already waiting or running.

        A permanently failed job also blocks its id for FAILURE_TTL_S, unless `is_forced` is set
        because a person requested another attempt.
        """
        existing = self._fetch(name, project_id)
        if existing is not None:
            if not (is_forced and existing.is_failed):
                return False
            existing.delete()
        queue, timeout_s = JOBS[name]
        try:
            self._queues[queue].enqueue(
                f"{MODULE}.{name}",
                project_id,
                job_id=job_id(name, project_id),
                unique=True,
                retry=Retry(max=5),  # without retries, RQ abandons a job whose worker died
                job_timeout=timeout_s,
                result_ttl=0,
                failure_ttl=FAILURE_TTL_S,
            )
        except DuplicateJobError:  # another process enqueued it first
            return False
        return True

    def waiting_jobs(self, queue: str) -> list[str]:
        """Return the ids of the jobs that wait in a queue; see `job_id`."""
        return list(self._queues[queue].get_job_ids())

    def requeue_abandoned(self) -> None:
        """Put jobs whose worker died back in their queue; RQ does this only on request."""
        ends_at = time.time() + LEASE_S
        for queue in self._queues.values():
            registry = queue.started_job_registry
            # A lease ends later than that only if the machine's clock was set back.
            long: Any = self._redis.zrangebyscore(registry.key, ends_at + CLOCK_SKEW_S, "+inf")
            if long:
                self._redis.zadd(registry.key, dict.fromkeys(long, ends_at), xx=True)
            registry.cleanup()

    def forget_dead_executions(self, job: Job) -> None:
        """Delete the records of a job's earlier runs that died with their worker.

        Call this before the current run ends. RQ 3.0.0 keeps the id of a run for a minute longer
        than the run itself. A job that ended within that minute would fail with "Execution ... not
        found in Redis". A dead run has no lease any more; its record may remain a little longer.
        """
        runs, leases = job.execution_registry, job.started_job_registry
        for run_id in runs.get_execution_ids():
            run = Execution(run_id, job.id, self._redis)
            if self._redis.zscore(leases.key, run.composite_key) is None:
                self._redis.zrem(runs.key, run_id)

    def report_step(self, job: Job, step: str) -> None:
        """Store the step that a running job has begun, for the dashboard."""
        job.meta = {"step": step}
        job.save_meta()  # type: ignore[no-untyped-call]

    def report_progress(self, job: Job, phase: str, done: int, total: int) -> None:
        """Store the phase and progress of a running job, for the dashboard."""
        previous = job.meta.get("progress", {})
        since, first = time.time(), done  # what is resumed does not begin at 0
        if previous.get("phase") == phase and previous.get("first", 0) <= done:
            since, first = previous["since"], previous.get("first", 0)
        job.meta["progress"] = {
            "phase": phase, "done": done, "total": total, "since": since, "first": first,
        }  # fmt: skip
        job.save_meta()  # type: ignore[no-untyped-call]

    # For the dashboard: these methods must only read, because its Redis user cannot write

    def jobs(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's waiting and running jobs: name, queue, status, phase, progress."""
        found = []
        for name, (queue, _) in JOBS.items():
            job = self._fetch(name, project_id)
            if job is None:
                continue
            status = job.get_status(refresh=False)
            progress = job.meta.get("progress") or {}
            left_s = None
            if progress:
                took_s, first = time.time() - progress["since"], progress.get("first", 0)
                left_s = seconds_left(progress["done"] - first, progress["total"] - first, took_s)
            found.append(
                {
                    "job": job.meta.get("step", name),
                    "queue": queue,
                    "status": status.value if status else "unknown",
                    **{k: progress[k] for k in ("phase", "done", "total") if k in progress},
                    "seconds_left": None if left_s is None else round(left_s, 1),
                }
            )
        return found

    def worker_counts(self) -> dict[str, int]:
        """Count the live workers of each queue."""
        listed = {name: worker_registration.get_keys(q) for name, q in self._queues.items()}
        return {name: self._redis.exists(*keys) if keys else 0 for name, keys in listed.items()}

    def worker_seen_at(self, hostname: str) -> float:
        """Return the time of the last heartbeat from a worker on that machine, or 0."""
        # RQ's own function would also delete workers that no longer exist.
        keys = worker_registration.get_keys(connection=self._redis)
        workers = [self._redis.hmget(key, "hostname", "last_heartbeat") for key in keys]
        seen = [utcparse(_text(at)) for name, at in workers if at and _text(name or "") == hostname]
        return max((time.timestamp() for time in seen), default=0.0)

    def record_tick(self, now: float) -> None:
        """Store the clock's heartbeat."""
        self._redis.set(CLOCK_KEY, now)

    def ticked_at(self) -> float:
        """Return the time of the clock's last heartbeat, or 0."""
        return float(self._redis.get(CLOCK_KEY) or 0)

    def record_health(self, service: str, problem: str, now: float, every_s: float) -> None:
        """Store the result of the clock's check of a service; `problem` is "" if it is up."""
        found = {"checked_at": now, "problem": problem, "every_s": every_s}
        self._redis.hset(HEALTH_KEY, service, json.dumps(found))

    def health(self) -> dict[str, dict[str, Any]]:
        """Return, for each service, the result of the clock's last check."""
        raw = self._redis.hgetall(HEALTH_KEY)
        return {_text(service): json.loads(found) for service, found in raw.items()}

    def _fetch(self, name: str, project_id: int) -> OwnJob | None:
        try:
            return OwnJob.fetch(job_id(name, project_id), self._redis, "json")
        except NoSuchJobError:
            return None


def _key(project_id: int, part: str = "hints") -> str:
    return f"tightloop:p{project_id}:{part}"


def _text(value: bytes | str) -> str:
    """Decode a value from Redis, because RQ needs a connection that does not decode values."""
    return value.decode() if isinstance(value, bytes) else value
