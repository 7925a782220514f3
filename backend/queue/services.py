"""Say which services are up, and what to do about the others, from Redis and the clock's checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from backend.queue.training_queue import TrainingQueue

# The clock may wait for a slow Label Studio; what it said before that is not news any more.
SILENCE_S = 60.0
CHECKED_BY_CLOCK = ("label_studio", "backend")
WORKERS = {
    "trainer": (
        "train",
        "no trainer is there, so trainings wait: it is starting, or its log says why",
    ),
    "ranker": (
        "rank",
        "no ranker is there, so no new images are asked: it is starting, or its log says why",
    ),
}
NO_CLOCK = "the clock is silent, so a lost webhook stays lost: it is starting, or its log says why"


@dataclass(frozen=True)
class Service:
    """One service, as last seen."""

    name: str = field(metadata={"description": "which service"})
    is_up: bool | None = field(
        metadata={"description": "whether it is up; `null` if that was not checked lately"}
    )
    problem: str = field(metadata={"description": 'what is wrong and what to do, or `""`'})
    seen_at: str | None = field(metadata={"description": "when it was last checked"})


def find_services(queue: TrainingQueue, now: float) -> list[Service]:
    """Every service but Redis, which answers here or raises QueueError; `now` is in seconds."""
    ticked_at = queue.ticked_at()
    ticks = now - ticked_at < SILENCE_S
    clock = Service("clock", ticks, "" if ticks else NO_CLOCK, _moment(ticked_at))
    n_workers = queue.worker_counts()
    found = []
    for name, (queue_name, problem) in WORKERS.items():
        is_up = n_workers[queue_name] > 0
        found.append(Service(name, is_up, "" if is_up else problem, _moment(now)))
    health = queue.health()
    for name in CHECKED_BY_CLOCK:
        seen = health.get(name)
        if seen is None or now - seen["checked_at"] > SILENCE_S + seen["every_s"]:
            found.append(Service(name, None, "", _moment(seen["checked_at"]) if seen else None))
        else:
            problem = seen["problem"]
            found.append(Service(name, not problem, problem, _moment(seen["checked_at"])))
    return [*found, clock]


def _moment(seconds: float) -> str | None:
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
