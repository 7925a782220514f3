"""Take the jobs that we enqueue and no others, since anyone may have written to Redis.

RQ imports and calls whatever a job's hash names: a function, callbacks, webhooks to any address.
So nothing of a job is looked at before its raw hash was found to be one of ours.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from typing import Self, cast

from pydantic_core import from_json
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import Serializer

log = logging.getLogger(__name__)

MODULE = "backend.workers.jobs"
# Name of the function -> its queue, and the seconds after which it is given up.
JOBS = {
    "retrain": ("train", 12 * 3600),
    "rank": ("rank", 1800),
}
QUEUES = ("train", "rank")
# What RQ writes for a job that has retries, a time-out and meta, and nothing else.
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
# RQ writes these also for jobs that have none, then empty.
ALWAYS_EMPTY = frozenset(
    {"success_callback_name", "failure_callback_name", "stopped_callback_name", "group_id"}
)
MAX_FIELD_BYTES = 64 * 1024
MAX_DATA_BYTES = 1024


class OwnJob(Job):
    """A job that RQ reads only if we have enqueued it; any other is dropped with a log line."""

    @classmethod
    def fetch(
        cls, id: str, connection: Redis | None = None, serializer: Serializer | str | None = None
    ) -> Self:
        """Read a job as RQ does; one that is not ours is deleted, and NoSuchJobError raised."""
        try:
            return cast(Self, super().fetch(id, connection, serializer))
        except (NoSuchJobError, RedisError):
            raise
        except Exception as error:  # RQ's own parsing raises anything on what it did not write
            reason = str(error) if isinstance(error, ForeignJobError) else "its fields are damaged"
            log.error("dropped job %r from Redis, which we did not enqueue: %s", id, reason)
            if connection is not None:
                _delete(connection, id)
            raise NoSuchJobError(f"job {id!r} is not ours") from None

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Fill in what Redis holds; ForeignJobError before anything of it was looked at."""
        if problem := _find_foreign(self.id, raw_data):
            raise ForeignJobError(problem)
        super().restore(raw_data)


class ForeignJobError(Exception):
    """Redis holds a job that we have not enqueued."""


def job_id(name: str, project_id: int) -> str:
    """The id of a project's job: at most one of each kind waits or runs."""
    return f"{name}-p{project_id}"


def _find_foreign(id_: str, raw: Mapping[bytes, bytes]) -> str:
    """Say what in a job's hash is not of our making; "" if nothing is."""
    for key, value in raw.items():
        name = key.decode(errors="replace")
        if name not in BOOKKEEPING and not (name in ALWAYS_EMPTY and not value):
            return f"it has the field {name[:50]!r}"
        if len(value) > MAX_FIELD_BYTES:
            return f"its field {name!r} holds {len(value):,} bytes"
    try:
        call = from_json(_decompressed(raw.get(b"data", b"")))
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
    return "it passes other arguments than we do, or stands in another queue"


def _decompressed(data: bytes) -> bytes:
    """The bytes, but never many more than a job of ours has."""
    return zlib.decompressobj().decompress(data, MAX_DATA_BYTES)


def _delete(connection: Redis, id_: str) -> None:
    """Delete it, so that it does not stand in the way of ours; the dashboard may only read."""
    try:
        connection.delete(f"{Job.redis_job_namespace_prefix}{id_}")
    except NoPermissionError:
        log.info("job %r is left to the worker, which drops it", id_)
