"""The jobs around the loop: rounds until none is due, and errors that people can read."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from redis import Redis
from rq import Worker

from backend import jobs, progress, registry, rounds
from backend.errors import LabelStudioError, TooFewLabelsError
from backend.settings import Settings, load_settings
from backend.training_queue import TrainingQueue
from scripts.oracle import OracleProject
from tests.conftest import RedisServer
from tests.unit.test_registry import record

PROJECT = 7


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = load_settings(
        _env_file=None,
        model_dir=tmp_path,
        redis_url=redis_server.url,
        retrain_after=3,
        retrain_wait_s=3600,
    )
    registry.write_record(registry.project_root(tmp_path, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def train(
    settings: Settings, queue: TrainingQueue, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[int], None]], int]:
    """Run the job with a training that only calls back; the number of trainings comes back."""
    monkeypatch.setattr(jobs, "_open", lambda _: (settings, queue, OracleProject(("a", "b"))))
    monkeypatch.setattr(jobs, "open_loop", lambda *_, **__: None)

    def run(during: Callable[[int], None]) -> int:
        n_trainings = 0

        def train_round(*_: Any, **__: Any) -> None:
            nonlocal n_trainings
            n_trainings += 1
            during(n_trainings)

        monkeypatch.setattr(rounds, "train_round", train_round)
        jobs.retrain(PROJECT)
        return n_trainings

    return run


def test_annotations_that_arrive_during_a_training_lead_to_exactly_one_more(
    queue: TrainingQueue, train: Callable[[Callable[[int], None]], int]
) -> None:
    def five_people_answer(number: int) -> None:
        if number == 1:
            for _ in range(5):
                queue.note_changes(PROJECT, 1, time.time())

    queue.note_changes(PROJECT, 3, time.time())
    assert train(five_people_answer) == 2
    assert queue.generation(PROJECT).n_new == 0


@pytest.mark.parametrize(
    ("n_cores", "n_trainers", "threads"),
    [(1, 1, 1), (2, 1, 1), (4, 1, 3), (4, 0, 3), (5, 2, 2), (5, 9, 1), (64, 1, 8)],
)
def test_trainers_leave_a_core_to_people_and_share_the_others(
    queue: TrainingQueue,
    train: Callable[[Callable[[int], None]], int],
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    n_cores: int,
    n_trainers: int,
    threads: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n_cores)))
    with Redis.from_url(redis_server.url) as connection:
        for _ in range(n_trainers):
            Worker(["train"], connection=connection, serializer="json").register_birth()  # type: ignore[no-untyped-call]
    before, used = torch.get_num_threads(), []
    torch.set_num_threads(8)  # as OMP_NUM_THREADS may say
    try:
        queue.note_changes(PROJECT, 3, time.time())
        train(lambda _: used.append(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert used == [threads]


def test_a_few_annotations_during_a_training_wait_for_their_number(
    queue: TrainingQueue, train: Callable[[Callable[[int], None]], int]
) -> None:
    def one_answers(_: int) -> None:
        queue.note_changes(PROJECT, 1, time.time())

    queue.note_changes(PROJECT, 3, time.time())
    assert train(one_answers) == 1
    assert queue.generation(PROJECT).n_new == 1


def test_a_job_without_anything_due_trains_nothing(
    train: Callable[[Callable[[int], None]], int],
) -> None:
    assert train(lambda _: None) == 0


def test_too_few_labels_are_said_and_waited_for(
    queue: TrainingQueue, train: Callable[[Callable[[int], None]], int]
) -> None:
    def one_class(_: int) -> None:
        raise TooFewLabelsError("training starts when at least two classes are labeled")

    queue.note_changes(PROJECT, 3, time.time())
    assert train(one_class) == 1
    assert "two classes" in queue.facts(PROJECT)["waiting_for"]
    assert queue.errors(PROJECT) == []
    assert queue.generation(PROJECT).n_new == 0  # tried again with the next answers


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (LabelStudioError("Label Studio cannot be reached"), "Label Studio cannot be reached"),
        (RuntimeError("hunter2"), "unexpected RuntimeError"),
    ],
)
def test_an_error_is_shown_to_people_and_tried_again_in_its_time(
    queue: TrainingQueue,
    train: Callable[[Callable[[int], None]], int],
    error: Exception,
    shown: str,
) -> None:
    def fail(_: int) -> None:
        raise error

    queue.note_changes(PROJECT, 3, time.time())
    assert train(fail) == 1
    [noted] = queue.errors(PROJECT)
    assert noted["where"] == "training"
    assert shown in noted["message"]
    assert "hunter2" not in noted["message"]
    generation = queue.generation(PROJECT)
    assert generation.n_new == 3  # nothing is lost
    due = {"retrain_after": 3, "retrain_wait_s": 3600}
    assert not generation.is_due(time.time(), **due)
    assert generation.is_due(time.time() + 61, **due)


@pytest.mark.parametrize(
    ("outcome", "errors", "is_due_soon"),
    [
        (None, [], False),
        (TooFewLabelsError("one class"), [], False),
        (LabelStudioError("cannot be reached"), ["cannot be reached"], True),
    ],
)
def test_a_head_knows_the_answers_it_read_and_is_tried_again_after_an_error(
    queue: TrainingQueue,
    train: Callable[[Callable[[int], None]], int],  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    outcome: Exception | None,
    errors: list[str],
    is_due_soon: bool,
) -> None:
    def refit_head(*_: Any) -> None:
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(rounds, "refit_head", refit_head)
    queue.note_changes(PROJECT, 2, time.time())
    jobs.refit(PROJECT)
    assert [error["message"] for error in queue.errors(PROJECT)] == errors
    assert not queue.generation(PROJECT).head_is_due(time.time())
    assert queue.generation(PROJECT).head_is_due(time.time() + 61) is is_due_soon
    assert queue.generation(PROJECT).n_new == 2  # the training has not read them


def test_a_second_training_waits_for_one_that_outlived_its_worker(
    settings: Settings, queue: TrainingQueue, train: Callable[[Callable[[int], None]], int]
) -> None:
    root = registry.project_root(settings.model_dir, PROJECT)
    queue.note_changes(PROJECT, 3, time.time())
    trained: list[int] = []
    with registry.hold(root, "train"):
        second = threading.Thread(target=lambda: trained.append(train(lambda _: None)))
        second.start()
        time.sleep(0.5)
        assert trained == []
        # The first one ends, and has seen all there is.
        queue.finish_round(PROJECT, queue.generation(PROJECT).generation, time.time())
    second.join(10)
    assert trained == [0]


def test_a_long_phase_is_in_the_workers_log_with_its_project(
    queue: TrainingQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    report = jobs._job_progress(queue, PROJECT)
    with caplog.at_level("INFO"):
        report("scoring the pool", 12_000, 48_000)
    assert caplog.messages[0].startswith(
        "project 7: scoring the pool: 12,000 of 48,000 images (25%), about "
    )


def _report_until_ended(url: str) -> None:
    report = jobs._job_progress(TrainingQueue(url), PROJECT)
    while True:
        report("training", 0, 1)
        time.sleep(0.05)


def _worker(url: str, child_pid: Any) -> None:
    child = multiprocessing.get_context("fork").Process(target=_report_until_ended, args=(url,))
    child.start()
    child_pid.value = child.pid
    child.join()


def test_a_job_ends_once_its_worker_is_gone(redis_server: RedisServer) -> None:
    context = multiprocessing.get_context("spawn")
    child_pid = context.Value("i", 0)
    worker = context.Process(target=_worker, args=(redis_server.url, child_pid))
    worker.start()
    wait_until(lambda: child_pid.value > 0)
    job = psutil.Process(child_pid.value)
    time.sleep(0.3)
    assert job.is_running()
    worker.kill()
    worker.join()
    wait_until(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE)


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.05)
