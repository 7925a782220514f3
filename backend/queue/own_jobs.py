"""Accept only jobs that we enqueued, because anyone who can reach Redis can write to it.

RQ imports and calls whatever a job's hash contains: a function, callbacks or webhooks to any
address. Therefore, each raw hash is checked before RQ reads it, and a foreign job is deleted and
logged. A job from an earlier release is also foreign if its function has since moved.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from typing import Any, Literal, Self, cast

from pydantic_core import from_json
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import Serializer

log = logging.getLogger(__name__)

JobName = Literal["retrain", "rescan", "adapt", "rank"]

MODULE = "backend.workers.jobs"
# For each function: its queue, and the number of seconds after which RQ aborts it.
JOBS: Mapping[str, tuple[str, int]] = {
    "retrain": ("train", 12 * 3600),
    "rescan": ("train", 12 * 3600),
    "adapt": ("train", 12 * 3600),
    "rank": ("rank", 1800),
}
QUEUES = ("train", "rank")
# The fields that RQ writes for a job that has retries, a timeout and meta.
BOOKKEEPING = frozenset(
    {
        "created_at",
        "data",
        "description",
        "ended_at",
        "enqueued_at",
        "failure_ttl",
        "last_heartbeat",
        "meta",
        "origin",
        "result_ttl",
        "retries_left",
        "retry_intervals",
        "started_at",
        "status",
        "timeout",
        "worker_name",
    }
)
# RQ also writes these fields, but leaves them empty for our jobs.
ALWAYS_EMPTY = frozenset(
    {"success_callback_name", "failure_callback_name", "stopped_callback_name", "group_id"}
)
MAX_FIELD_BYTES = 64 * 1024
MAX_DATA_BYTES = 1024


class OwnJob(Job):
    """A job that RQ reads only if we enqueued it; any other job is deleted and logged."""

    @classmethod
    def fetch(
        cls, id: str, connection: Redis | None = None, serializer: Serializer | str | None = None
    ) -> Self:
        """Read a job as RQ does; if it is foreign, delete it and raise NoSuchJobError."""
        try:
            return cast(Self, super().fetch(id, connection, serializer))
        except (NoSuchJobError, RedisError):
            raise
        except Exception as error:  # RQ may raise any error while parsing foreign data
            reason = str(error) if isinstance(error, ForeignJobError) else "its fields are damaged"
            log.error(
                "deleted job %r from Redis because Tightloop did not enqueue it: %s", id, reason
            )
            if connection is not None:
                _delete(connection, id)
            raise NoSuchJobError(f"job {id!r} is not ours") from None

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read the job's hash; if the job is foreign, raise ForeignJobError before RQ reads it."""
        if problem := _find_foreign(self.id, raw_data):
            raise ForeignJobError(problem)
        super().restore(raw_data)


class ForeignJobError(Exception):
    """Redis contains a job that we did not enqueue."""


def job_id(name: str, project_id: int) -> str:
    """Return the id of a project's job; with this id, only one job per name can wait or run."""
    return f"{name}-p{project_id}"


def _find_foreign(id_: str, raw: Mapping[bytes, bytes]) -> str:
    """Describe a part of a job's hash that we did not write, or return ""."""
    for key, value in raw.items():
        name = key.decode(errors="replace")
        if name not in BOOKKEEPING and not (name in ALWAYS_EMPTY and not value):
            return f"it has the field {name[:50]!r}"
        if len(value) > MAX_FIELD_BYTES:
            return f"its field {name!r} has {len(value):,} bytes"
    try:
        # Decompress no more than our jobs can contain.
        call = from_json(zlib.decompressobj().decompress(raw.get(b"data", b""), MAX_DATA_BYTES))
    except (ValueError, zlib.error):
        return "its call cannot be read"
    match call:
        case [str(function), None, [int(project_id)], {**kwargs}] if not kwargs:
            module, _, name = function.rpartition(".")
            if module != MODULE or name not in JOBS:
                return f"it calls {function[:100]!r}"
            is_ours = type(project_id) is int and id_ == job_id(name, project_id)
            if is_ours and raw.get(b"origin") == JOBS[name][0].encode():
                return ""
    return "its arguments or its queue are not ours"


def _delete(connection: Redis, id_: str) -> None:
    """Delete everything that a job left in Redis, so that its id can be used again."""
    own = id_.encode()
    try:
        runs: dict[str, Any] = {q: connection.zrange(f"rq:wip:{q}", 0, -1) for q in QUEUES}
        with connection.pipeline() as pipe:
            pipe.delete(f"rq:job:{id_}", f"rq:executions:{id_}")
            for name in QUEUES:
                pipe.lrem(f"rq:queue:{name}", 0, id_)
                pipe.zrem(f"rq:scheduled:{name}", id_)
                pipe.zrem(f"rq:failed:{name}", id_)
                for run in runs[name]:  # b"<job's id>:<run's id>"
                    if run.rpartition(b":")[0] == own:
                        pipe.zrem(f"rq:wip:{name}", run)
            pipe.execute()
    except NoPermissionError:  # the published dashboard has only read access
        log.info("left job %r to the worker, which will delete it", id_)
