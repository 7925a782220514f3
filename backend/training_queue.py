"""The queue: the only file that enqueues, and the one owner of the question when a retrain is due.

Per project Redis holds a small hash. Every change of an annotation raises `generation`; a finished
round raises `trained` to the generation that it read. Nothing here cannot be rebuilt: where Redis
was lost, the clock compares Label Studio with the annotations that the last round saw, and raises
it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis
import rq
from rq import Retry, worker_registration
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.utils import utcparse

from backend.errors import QueueError
from backend.own_jobs import JOBS, MODULE, QUEUES, OwnJob, job_id
from backend.progress import seconds_left
from backend.query import retrain_is_due

# A job that died for good blocks its own id for as long as its hash lives.
FAILURE_TTL_S = 120
RETRY_AFTER_ERROR_S = 60.0
ERRORS_KEPT = 10
CLOCK_KEY = "tightloop:clock"
HEALTH_KEY = "tightloop:health"
# Longer than a training takes, after which open images are listed anew. An image counts once, so
# the pool bounds what is kept.
ANSWERED_KEPT_S = 2.0 * JOBS["retrain"][1]


@dataclass(frozen=True)
class Generation:
    """How far training is behind labeling. Times are seconds since the epoch."""

    generation: int = 0
    trained: int = 0
    forced: int = 0  # the generation at which somebody asked for a training
    first_new_at: float | None = None
    retry_at: float = 0.0  # after an error: not before this moment
    refitted: int = 0  # the generation that the last head knows
    refit_at: float = (
        0.0  # not before this moment: people answer faster than Label Studio re-orders
    )

    @property
    def n_new(self) -> int:
        """Changes of annotations that no finished round has read."""
        return max(self.generation - self.trained, 0)

    @property
    def is_forced(self) -> bool:
        """Whether somebody asked for a training that no finished round has answered."""
        return self.forced > self.trained

    def is_due(self, now: float, *, retrain_after: int, retrain_wait_s: float) -> bool:
        """Whether a retrain is due at `now`; webhook, clock and the running job all ask this."""
        waited_s = 0.0 if self.first_new_at is None else now - self.first_new_at
        return now >= self.retry_at and retrain_is_due(
            self.n_new,
            waited_s,
            is_forced=self.is_forced,
            retrain_after=retrain_after,
            retrain_wait_s=retrain_wait_s,
        )

    def head_is_due(self, now: float) -> bool:
        """Whether a head may be fitted to answers that neither a head nor a training has read."""
        return now >= self.refit_at and self.generation > max(self.trained, self.refitted)


class TrainingQueue:
    """RQ's queues and the projects' counters in one Redis."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_connect_timeout=2, socket_timeout=10)
        self._queues = {
            name: rq.Queue(name, connection=self._redis, serializer="json", job_class=OwnJob)
            for name in QUEUES
        }

    # When a retrain is due

    def generation(self, project_id: int) -> Generation:
        """How far training is behind labeling."""
        with _queue_errors():
            raw = self._redis.hgetall(_key(project_id))
        return _generation(raw)

    def note_changes(
        self,
        project_id: int,
        n_changes: int,
        now: float,
        *,
        is_forced: bool = False,
        answered: Iterable[str] = (),
    ) -> Generation:
        """Count changed annotations; `is_forced` asks for a training whatever their number.

        `answered` are ids of images that were answered, as far as that is known.
        """
        key = _key(project_id)
        with _queue_errors(), self._redis.pipeline() as pipe:
            if moments := dict.fromkeys(answered, now):
                pipe.zadd(_key(project_id, "answered"), moments)
                pipe.zremrangebyscore(_key(project_id, "answered"), 0, now - ANSWERED_KEPT_S)
            pipe.hincrby(key, "generation", n_changes + is_forced)
            pipe.hsetnx(key, "first_new_at", now)
            pipe.hgetall(key)
            after = _generation(pipe.execute()[-1])
            if is_forced:
                self._redis.hset(key, mapping={"forced": after.generation, "retry_at": 0})
        return self.generation(project_id) if is_forced else after

    def catch_up(self, project_id: int, n_behind: int, now: float) -> int:
        """Make good lost webhooks: raise the generation so that at least `n_behind` changes are
        new.
        """
        missed = n_behind - self.generation(project_id).n_new
        if missed > 0:
            self.note_changes(project_id, missed, now)
        return max(missed, 0)

    def finish_round(self, project_id: int, generation: int, started_at: float) -> None:
        """A round that began at `started_at` by reading `generation` is done.

        What changed since then has been waiting at most since `started_at`.
        """
        key = _key(project_id)

        def step(pipe: redis.client.Pipeline) -> None:
            now_at = int(pipe.hget(key, "generation") or 0)
            pipe.multi()
            read = min(generation, now_at)  # where Redis was lost meanwhile it counts from zero
            # A new body knows no more than it read, whatever heads of the last one knew.
            pipe.hset(key, mapping={"trained": read, "refitted": read, "retry_at": 0})
            if now_at > generation:
                pipe.hset(key, "first_new_at", started_at)
            else:
                pipe.hdel(key, "first_new_at")

        with _queue_errors():
            self._redis.transaction(step, key)

    def finish_refit(self, project_id: int, generation: int, next_at: float) -> None:
        """A head knows `generation`; the next one comes at `next_at` at the earliest."""
        known = min(generation, self.generation(project_id).generation)
        with _queue_errors():
            self._redis.hset(_key(project_id), mapping={"refitted": known, "refit_at": next_at})

    def postpone(self, project_id: int, until: float) -> None:
        """After an error: no new try before `until`, unless somebody forces one."""
        with _queue_errors():
            self._redis.hset(_key(project_id), "retry_at", until)

    # Jobs

    def enqueue_retrain(self, project_id: int, *, is_forced: bool = False) -> bool:
        """Enqueue the project's training; False where it waits or runs already.

        One whose process died again and again stands in the way for FAILURE_TTL_S, so that it does
        not do so every second; unless somebody forces the next try.
        """
        if is_forced:
            with _queue_errors():
                failed = self._queues["train"].failed_job_registry
                if (retrain := job_id("retrain", project_id)) in failed.get_job_ids():
                    failed.remove(retrain, delete_job=True)
        return self._enqueue("retrain", project_id)

    def enqueue_top_up(self, project_id: int) -> bool:
        """Enqueue a look at how many tasks are open; False where one waits already."""
        return self._enqueue("top_up", project_id)

    def enqueue_refresh(self, project_id: int) -> bool:
        """Enqueue the switch of the open tasks' order to the version in service."""
        return self._enqueue("refresh", project_id)

    def enqueue_refit(self, project_id: int) -> bool:
        """Enqueue a new head from the answers so far; False where one waits or runs already."""
        return self._enqueue("refit", project_id)

    def enqueue_collect_reviews(self, project_id: int) -> bool:
        """Enqueue a look at what was reviewed; False where one waits or runs already."""
        return self._enqueue("collect_reviews", project_id)

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
                    "job": name,
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

    def note_facts(self, project_id: int, facts: Mapping[str, Any]) -> None:
        """Keep counts that were just read, so that showing them asks nobody."""
        with _queue_errors():
            self._redis.hset(
                _key(project_id, "facts"), mapping={k: json.dumps(v) for k, v in facts.items()}
            )

    def answered_since(self, project_id: int, moment: float) -> set[str]:
        """Ids of images that webhooks said were answered since then."""
        with _queue_errors():
            found = self._redis.zrangebyscore(_key(project_id, "answered"), moment, "+inf")
        return {_text(image_id) for image_id in found}  # type: ignore[arg-type]  # not asked for scores

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

    def facts(self, project_id: int) -> dict[str, Any]:
        """The counts that were last read."""
        with _queue_errors():
            raw = self._redis.hgetall(_key(project_id, "facts"))
        return {_text(k): json.loads(v) for k, v in raw.items()}

    def note_error(self, project_id: int, where: str, message: str) -> None:
        """Keep an error for people to see, newest first."""
        key = _key(project_id, "errors")
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with _queue_errors(), self._redis.pipeline() as pipe:
            pipe.lpush(key, json.dumps({"at": at, "where": where, "message": message}))
            pipe.ltrim(key, 0, ERRORS_KEPT - 1)
            pipe.execute()

    def errors(self, project_id: int) -> list[dict[str, str]]:
        """The last errors, newest first."""
        with _queue_errors():
            raw = self._redis.lrange(_key(project_id, "errors"), 0, -1)
        return [json.loads(line) for line in raw]

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


def _key(project_id: int, part: str = "generation") -> str:
    return f"tightloop:p{project_id}:{part}"


def _generation(hash_: Mapping[Any, Any]) -> Generation:
    raw = {_text(key): float(value) for key, value in hash_.items()}
    return Generation(
        generation=int(raw.get("generation", 0)),
        trained=int(raw.get("trained", 0)),
        forced=int(raw.get("forced", 0)),
        first_new_at=raw.get("first_new_at"),
        retry_at=raw.get("retry_at", 0.0),
        refitted=int(raw.get("refitted", 0)),
        refit_at=raw.get("refit_at", 0.0),
    )


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
