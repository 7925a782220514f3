"""Enqueue jobs and keep hints: the only file that writes to Redis.

A hint says that something may have happened to a project: that a webhook named answered images, or
that a person asked for a training. Nothing more is believed of it, and losing all of Redis loses
nothing that the clock's next look at Label Studio does not find.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis
import rq
from rq import Retry, worker_registration
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.utils import utcparse

from backend.base.errors import QueueError
from backend.base.progress import seconds_left
from backend.queue.own_jobs import JOBS, MODULE, QUEUES, OwnJob, job_id

# A job that died for good blocks its own id for as long as its hash lives.
FAILURE_TTL_S = 120
CLOCK_KEY = "tightloop:clock"
HEALTH_KEY = "tightloop:health"
# Bounds on what webhooks can make us keep for a project.
IMAGES_PER_HINT = 1_000
IMAGES_KEPT = 10_000
IMAGE_ID_LENGTH = 500
HINTS_KEPT_S = 24 * 3600.0


@dataclass(frozen=True)
class Hints:
    """What was said about a project. Moments are seconds since the epoch, 0 = never."""

    looks: int = 0  # rises whenever anyone says "look at this project"
    hinted_at: float = 0.0  # when a webhook last told of a change
    train_asked_at: float = 0.0  # when a person last asked for a training


class TrainingQueue:
    """RQ's queues and the projects' hints in one Redis."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=10)
        self._queues = {
            name: rq.Queue(name, connection=self._redis, serializer="json", job_class=OwnJob)
            for name in QUEUES
        }

    # Hints

    def hint(self, project_id: int, now: float, answered: Iterable[str] = ()) -> None:
        """Keep that a webhook told of a change, and which images it said were answered; then have
        the project looked at.
        """
        named = islice((i for i in answered if len(i) <= IMAGE_ID_LENGTH), IMAGES_PER_HINT)
        answered_key = _key(project_id, "answered")
        with _queue_errors(), self._redis.pipeline() as pipe:
            if moments := dict.fromkeys(named, now):
                pipe.zadd(answered_key, moments)
                pipe.zremrangebyscore(answered_key, 0, now - HINTS_KEPT_S)
                pipe.zremrangebyrank(answered_key, 0, -IMAGES_KEPT - 1)
            pipe.hset(_key(project_id), "hinted_at", now)
            pipe.execute()
        self.look(project_id)

    def ask_for_training(self, project_id: int, now: float) -> None:
        """Keep that a person asked for a training, be the answers new or not; then have the project
        looked at.
        """
        with _queue_errors():
            self._redis.hset(_key(project_id), "train_asked_at", now)
        self.look(project_id)

    def look(self, project_id: int) -> None:
        """Have the project looked at now."""
        self.say_look(project_id)
        self.enqueue_rank(project_id)

    def say_look(self, project_id: int) -> None:
        """Have the clock look at the project with its next tick, as a job does that has ended."""
        with _queue_errors():
            self._redis.hincrby(_key(project_id), "looks", 1)

    def hints(self, project_id: int) -> Hints:
        """Return what was said about the project."""
        with _queue_errors():
            raw = self._redis.hgetall(_key(project_id))
        said = {_text(key): float(value) for key, value in raw.items()}
        return Hints(
            looks=int(said.get("looks", 0)),
            hinted_at=said.get("hinted_at", 0.0),
            train_asked_at=said.get("train_asked_at", 0.0),
        )

    def answered_since(self, project_id: int, moment: float) -> dict[str, float]:
        """Return the images that webhooks said were answered since a moment, and when they did."""
        with _queue_errors():
            found: Any = self._redis.zrangebyscore(
                _key(project_id, "answered"), moment, "+inf", withscores=True
            )
        return {_text(image_id): at for image_id, at in found}

    def take_earlier(self, project_id: int) -> tuple[bool, list[dict[str, str]]]:
        """Return what an earlier release kept here, and delete it: whether a training was asked
        for, and errors, newest first.
        """
        keys = [_key(project_id, part) for part in ("generation", "errors", "facts")]
        with _queue_errors():
            counted = {_text(k): float(v) for k, v in self._redis.hgetall(keys[0]).items()}
            lines = self._redis.lrange(keys[1], 0, -1)
            if counted:  # it kept under the same name what has long been read
                keys.append(_key(project_id, "answered"))
            self._redis.delete(*keys)
        return counted.get("forced", 0) > counted.get("trained", 0), [*map(json.loads, lines)]

    # Jobs

    def enqueue_retrain(self, project_id: int, *, is_forced: bool = False) -> bool:
        """Enqueue the project's training; False if it waits or runs already.

        One whose process died again and again blocks the next for FAILURE_TTL_S, so that it does
        not die every second; unless a person asked for the next try.
        """
        if is_forced:
            with _queue_errors():
                failed = self._queues["train"].failed_job_registry
                if (retrain := job_id("retrain", project_id)) in failed.get_job_ids():
                    failed.remove(retrain, delete_job=True)
        return self._enqueue("retrain", project_id)

    def enqueue_rank(self, project_id: int) -> bool:
        """Enqueue the seconds-long work that is due; False if that waits or runs already."""
        return self._enqueue("rank", project_id)

    def put_abandoned_back(self) -> None:
        """Put jobs whose worker died back into their queue (RQ looks only when somebody does)."""
        with _queue_errors():
            for queue in self._queues.values():
                queue.started_job_registry.cleanup()

    def forget_dead_executions(self, job: Job) -> None:
        """Forget the runs of a job that died with their worker, before the job ends.

        RQ 3.0.0 keeps the id of a run a minute longer than the run itself, and a job that ends
        within that minute fails over it: "Execution … not found in Redis".
        """
        with _queue_errors():
            runs = job.execution_registry
            for run_id in runs.get_execution_ids():
                run = Execution(run_id, job.id, self._redis)
                if not self._redis.exists(run.key):
                    self._redis.zrem(runs.key, run_id)

    def report_step(self, job: Job, step: str) -> None:
        """Keep which step a running job has begun, for people to see."""
        job.meta = {"step": step}
        with _queue_errors():
            job.save_meta()  # type: ignore[no-untyped-call]

    def report_progress(self, job: Job, phase: str, done: int, total: int) -> None:
        """Keep what a running job is doing, for people to see."""
        previous = job.meta.get("progress", {})
        now = time.time()
        since = previous.get("since", now) if previous.get("phase") == phase else now
        job.meta["progress"] = {"phase": phase, "done": done, "total": total, "since": since}
        with _queue_errors():
            job.save_meta()  # type: ignore[no-untyped-call]

    # What people see: the published dashboard's user of Redis may do no more than these reads need

    def jobs(self, project_id: int) -> list[dict[str, Any]]:
        """The project's jobs that wait or run: name, status, phase and how far it is."""
        found = []
        for name, (queue, _) in JOBS.items():
            with _queue_errors():
                try:
                    job = OwnJob.fetch(
                        job_id(name, project_id), connection=self._redis, serializer="json"
                    )
                except NoSuchJobError:
                    continue
                status = job.get_status(refresh=False)
            progress = job.meta.get("progress") or {}
            found.append(
                {
                    "job": job.meta.get("step", name),
                    "queue": queue,
                    "status": status.value if status else "unknown",
                    **{k: progress[k] for k in ("phase", "done", "total") if k in progress},
                    "seconds_left": _seconds_left(progress, time.time()),
                }
            )
        return found

    def worker_counts(self) -> dict[str, int]:
        """How many workers listen to each queue, the dead ones left out."""
        with _queue_errors():
            listed = {name: worker_registration.get_keys(q) for name, q in self._queues.items()}
            return {name: self._redis.exists(*keys) if keys else 0 for name, keys in listed.items()}

    def worker_seen_at(self, hostname: str) -> float:
        """When the worker on that machine last gave a sign of life; 0 where none is known."""
        with _queue_errors():
            # RQ's own listing deletes workers that are gone.
            keys = worker_registration.get_keys(connection=self._redis)
            workers = [self._redis.hmget(key, "hostname", "last_heartbeat") for key in keys]
        seen = [utcparse(_text(at)) for name, at in workers if at and _text(name or "") == hostname]
        return max((moment.timestamp() for moment in seen), default=0.0)

    def note_tick(self, now: float) -> None:
        """The clock's sign of life."""
        with _queue_errors():
            self._redis.set(CLOCK_KEY, now)

    def ticked_at(self) -> float:
        """When the clock last gave a sign of life; 0 where it never did."""
        with _queue_errors():
            return float(self._redis.get(CLOCK_KEY) or 0)

    def note_health(self, service: str, problem: str, now: float, every_s: float) -> None:
        """Keep what the clock found out about a service that it looks at every so often; no problem
        is "".
        """
        found = {"checked_at": now, "problem": problem, "every_s": every_s}
        with _queue_errors():
            self._redis.hset(HEALTH_KEY, service, json.dumps(found))

    def health(self) -> dict[str, dict[str, Any]]:
        """When the clock last looked at each service, and what was wrong."""
        with _queue_errors():
            raw = self._redis.hgetall(HEALTH_KEY)
        return {_text(service): json.loads(found) for service, found in raw.items()}

    def _enqueue(self, name: str, project_id: int) -> bool:
        queue, timeout_s = JOBS[name]
        with _queue_errors():
            try:
                self._queues[queue].enqueue(
                    f"{MODULE}.{name}",
                    project_id,
                    job_id=job_id(name, project_id),
                    unique=True,
                    retry=Retry(max=5),  # without retries RQ gives up a job whose worker died
                    job_timeout=timeout_s,
                    result_ttl=0,
                    failure_ttl=FAILURE_TTL_S,
                )
            except DuplicateJobError:
                return False
        return True


def _key(project_id: int, part: str = "hints") -> str:
    return f"tightloop:p{project_id}:{part}"


def _text(value: bytes | str) -> str:
    """RQ needs a connection that does not decode what it reads."""
    return value.decode() if isinstance(value, bytes) else value


def _seconds_left(progress: Mapping[str, Any], now: float) -> float | None:
    if not progress:
        return None
    left_s = seconds_left(progress["done"], progress["total"], now - progress["since"])
    return None if left_s is None else round(left_s, 1)


@contextmanager
def _queue_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        # The error's own text may hold the URL, and that the password.
        raise QueueError(
            f"Redis cannot be used ({type(error).__name__}): check that it runs and REDIS_URL"
        ) from error
