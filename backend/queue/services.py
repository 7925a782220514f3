"""Report, from Redis and the clock's checks, which services are up and how to fix the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from backend.queue.training_queue import TrainingQueue

# The clock's findings are outdated after this time, which is long enough for a slow Label Studio.
SILENCE_S = 60.0
CHECKED_BY_CLOCK = ("label_studio", "backend")
# For each service: its queue, and the message to show if no worker listens to it.
WORKERS = {
    "trainer": (
        "train",
        "No trainer is running, so nothing is trained. If this persists, check the trainer log.",
    ),
    "ranker": (
        "rank",
        "No ranker is running, so no images are queried. If this persists, check the ranker log.",
    ),
}
NO_CLOCK = (
    "The clock is not running, so changes whose webhook was lost go unnoticed. If this persists, "
    "check the clock log."
)


@dataclass(frozen=True)
class Service:
    """One service and its last known status."""

    name: str = field(metadata={"description": "the service's name"})
    is_up: bool | None = field(
        metadata={"description": "whether the service is up; `null` if it was not checked recently"}
    )
    problem: str = field(metadata={"description": 'what is wrong and what to do, or `""`'})
    seen_at: str | None = field(metadata={"description": "when the service was last checked"})


def find_services(queue: TrainingQueue, now: float) -> list[Service]:
    """Return the status of all services except Redis.

    `now` is in seconds. Raises QueueError if Redis fails.
    """
    n_workers = queue.worker_counts()
    found = []
    for name, (queue_name, problem) in WORKERS.items():
        is_up = n_workers[queue_name] > 0
        found.append(Service(name, is_up, "" if is_up else problem, _iso(now)))
    health = queue.health()
    for name in CHECKED_BY_CLOCK:
        seen = health.get(name, {"checked_at": 0.0, "every_s": 0.0, "problem": ""})
        checked_at, problem = seen["checked_at"], seen["problem"]
        if abs(now - checked_at) > SILENCE_S + seen["every_s"]:
            found.append(Service(name, None, "", _iso(checked_at)))
        else:
            found.append(Service(name, not problem, problem, _iso(checked_at)))
    ticked_at = queue.ticked_at()
    # A tick from the future is also old: the machine's clock has been set back since.
    ticks = abs(now - ticked_at) < SILENCE_S
    return [*found, Service("clock", ticks, "" if ticks else NO_CLOCK, _iso(ticked_at))]


def _iso(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
