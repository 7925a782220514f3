"""Find the services that are up, with a real Redis; time is an argument."""

from __future__ import annotations

import pytest
from redis import Redis
from rq import SimpleWorker

from backend.queue.services import Service, find_services
from backend.queue.training_queue import TrainingQueue
from tests.conftest import RedisServer

NOON = 1_700_000_000.0


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


def found(queue: TrainingQueue, now: float = NOON) -> dict[str, Service]:
    return {service.name: service for service in find_services(queue, now)}


def test_a_service_that_is_not_running_says_what_to_do(queue: TrainingQueue) -> None:
    services = found(queue)
    assert {name: s.is_up for name, s in services.items()} == {
        "trainer": False, "ranker": False, "label_studio": None, "backend": None, "clock": False,
    }  # fmt: skip
    assert all("log" in s.problem for s in services.values() if s.is_up is False)


def test_living_workers_and_a_ticking_clock_are_up(
    queue: TrainingQueue, redis_server: RedisServer
) -> None:
    for name in ("train", "rank"):
        worker = SimpleWorker([name], connection=Redis.from_url(redis_server.url))
        worker.register_birth()  # type: ignore[no-untyped-call]
    queue.record_tick(NOON - 59)
    up = {name for name, service in found(queue).items() if service.is_up}
    assert up == {"trainer", "ranker", "clock"}
    assert found(queue)["clock"].seen_at == "2023-11-14T22:12:21+00:00"
    assert found(queue, NOON + 2)["clock"].is_up is False


def test_a_clock_process_that_died_before_its_machines_clock_was_set_back_is_down(
    queue: TrainingQueue,
) -> None:
    queue.record_tick(NOON + 3600)
    queue.record_health("backend", "", NOON + 3600, 10)
    assert found(queue)["clock"].is_up is False
    assert found(queue)["backend"].is_up is None


def test_a_health_check_is_shown_until_it_is_too_old(queue: TrainingQueue) -> None:
    queue.record_health(
        "label_studio", "Label Studio cannot be reached: check that it runs", NOON, 5
    )
    queue.record_health("backend", "", NOON, 10)
    services = found(queue, NOON + 64)
    assert services["label_studio"].is_up is False
    assert services["label_studio"].problem.endswith("check that it runs")
    assert services["backend"].is_up is True
    assert found(queue, NOON + 66)["label_studio"].is_up is None
    assert found(queue, NOON + 66)["label_studio"].problem == ""
