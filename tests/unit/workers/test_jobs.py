"""Run the jobs: trainings until none is due, and errors shown in plain words."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import torch
from redis import Redis
from rq import Queue, Worker

from backend.base import progress
from backend.base.errors import (
    DatabaseError,
    LabelStudioError,
    PoolError,
    ProjectGoneError,
    TooFewLabelsError,
    TrainingError,
)
from backend.base.labeling import NewTask
from backend.base.settings import Settings, load_settings
from backend.queue.own_jobs import JobName
from backend.queue.training_queue import TrainingQueue
from backend.rounds import adapting, rounds
from backend.rounds.classes import follow_classes
from backend.rounds.decide import RETRY_AFTER_S, decide
from backend.rounds.loop import Loop
from backend.rounds.observe import observe
from backend.store.exports import labels_path
from backend.store.files import lock
from backend.store.project_record import begin_detaching, project_root, write_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.workers import jobs
from backend.workers.job_progress import job_progress
from scripts.research.oracle import OracleProject
from tests.conftest import RedisServer
from tests.patience import PATIENCE_S, wait_for
from tests.unit.store.test_registry import meta, record
from tests.unit.store.test_registry import save as save_version

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
    write_record(project_root(tmp_path, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def store(settings: Settings) -> ProjectStore:
    """Return the store of a project that was read 100 seconds ago."""
    own = ProjectStore(project_root(settings.model_dir, PROJECT))
    own.record(read_at=time.time() - 100)
    return own


@pytest.fixture
def annotate(queue: TrainingQueue) -> Callable[[int], None]:
    """Return a function that sends webhooks about annotations of that many more images."""
    numbers = itertools.count()
    return lambda count: queue.hint(
        PROJECT, time.time(), [f"img-{next(numbers)}" for _ in range(count)]
    )


@pytest.fixture
def n_new(settings: Settings, queue: TrainingQueue) -> Callable[[], int]:
    root = project_root(settings.model_dir, PROJECT)
    return lambda: observe(root, queue, PROJECT).n_new


@pytest.fixture
def work(settings: Settings, queue: TrainingQueue, monkeypatch: pytest.MonkeyPatch) -> jobs.Work:
    """Give the jobs an oracle in place of Label Studio, and no loop."""
    own = jobs.Work(settings, queue, PROJECT)
    own.project = OracleProject(("a", "b"))
    monkeypatch.setattr(jobs.Work, "loop", cast(Loop, None))
    monkeypatch.setattr(own, "open_loop", lambda **_: None)
    monkeypatch.setattr(jobs, "_open", lambda _: own)
    return own


@pytest.fixture
def train(
    work: jobs.Work, store: ProjectStore, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[int], None]], int]:
    """Return a function that runs the job with a stand-in for training and counts the trainings."""

    def run(during: Callable[[int], None]) -> int:
        n_trainings = 0

        def train_round(*_: Any, **__: Any) -> None:
            nonlocal n_trainings
            n_trainings += 1
            began = time.time()
            store.record_reading(began, is_full=False)
            waiting_for = None
            try:
                during(n_trainings)
            except TooFewLabelsError as error:
                waiting_for = error
            store.record_learned(
                {}, began, trained_at=began, waiting_for=waiting_for and str(waiting_for)
            )
            if waiting_for:
                raise waiting_for

        monkeypatch.setattr(rounds, "train_round", train_round)
        jobs.retrain(PROJECT)
        return n_trainings

    assert work.store
    return run


def test_a_job_of_many_minutes_opens_each_loop_with_the_present_label_config(
    settings: Settings, queue: TrainingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an earlier one, a class that was added meanwhile would count as removed again."""
    config: tuple[str, ...] = ("cat", "dog")
    # As in Label Studio's place, a connection reads the label config only once.
    monkeypatch.setattr(jobs, "open_project", lambda *_: OracleProject(config))
    monkeypatch.setattr(jobs, "open_loop", lambda _, __, project, **___: project.choices)
    work = jobs.Work(settings, queue, PROJECT)
    assert work.project is work.project
    assert cast(Any, work.open_loop()) == ("cat", "dog")
    config = ("cat", "dog", "frog")
    assert cast(Any, work.open_loop()) == ("cat", "dog", "frog")


def test_the_ranker_opens_its_loop_again_only_after_the_classes_have_changed(
    settings: Settings, queue: TrainingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count(1)
    work = jobs.Work(settings, queue, PROJECT)
    monkeypatch.setattr(work, "open_loop", lambda: next(numbers))
    monkeypatch.setattr(jobs, "scored_part", lambda loop: loop)
    assert [cast(Any, work.loop) for _ in range(2)] == [1, 1]
    follow_classes(project_root(settings.model_dir, PROJECT), ("cat", "dog", "frog"))
    assert [cast(Any, work.loop) for _ in range(2)] == [2, 2]


def test_annotations_that_arrive_during_a_training_lead_to_exactly_one_more(
    annotate: Callable[[int], None],
    n_new: Callable[[], int],
    train: Callable[[Callable[[int], None]], int],
) -> None:
    def annotate_five(number: int) -> None:
        if number == 1:
            for _ in range(5):
                annotate(1)

    annotate(3)
    assert train(annotate_five) == 2
    assert n_new() == 0


@pytest.mark.parametrize(
    ("n_cores", "n_trainers", "threads"),
    [(1, 1, 1), (2, 1, 1), (4, 1, 3), (4, 0, 3), (5, 2, 2), (5, 9, 1), (64, 1, 8)],
)
def test_trainers_leave_one_core_free_and_share_the_others(
    annotate: Callable[[int], None],
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
        annotate(3)
        train(lambda _: used.append(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert used == [threads]


@pytest.fixture
def adapt(
    work: jobs.Work, store: ProjectStore, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], object]], list[bool]]:
    """Return a function that runs the job, and returns whether it may go on before and after."""
    save_version(work.root, meta(1))
    Registry(work.root).promote("r0001")
    store.record(ordered_by="r0001", pool_images=5000, read_at=time.time())

    def run(during: Callable[[], object]) -> list[bool]:
        answers: list[bool] = []

        def adapt_body(_: Loop, may_go_on: Callable[[], bool], __: Any) -> None:
            answers.append(may_go_on())
            during()
            answers.append(may_go_on())

        monkeypatch.setattr(adapting, "adapt_body", adapt_body)
        jobs.adapt(PROJECT)
        return answers

    return run


def test_adapting_the_body_goes_on_while_nothing_else_is_due(
    adapt: Callable[[Callable[[], object]], list[bool]],
) -> None:
    assert adapt(lambda: None) == [True, True]


def test_adapting_the_body_yields_to_a_training_run_of_this_project(
    queue: TrainingQueue, adapt: Callable[[Callable[[], object]], list[bool]]
) -> None:
    assert adapt(lambda: queue.ask_for_training(PROJECT, time.time())) == [True, False]


@pytest.mark.parametrize(("name", "may_go_on"), [("retrain", False), ("adapt", True)])
def test_adapting_the_body_yields_to_a_training_run_of_another_project(
    queue: TrainingQueue,
    adapt: Callable[[Callable[[], object]], list[bool]],
    name: JobName,
    may_go_on: bool,
) -> None:
    assert adapt(lambda: queue.enqueue(name, PROJECT + 1)) == [True, may_go_on]


def test_projects_that_adapt_their_bodies_take_turns(
    queue: TrainingQueue,
    adapt: Callable[[Callable[[], object]], list[bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "TURN_S", 0.0)
    assert adapt(lambda: queue.enqueue("adapt", PROJECT + 1)) == [True, False]


def test_a_detached_project_is_not_adapted_to_any_longer(
    work: jobs.Work, store: ProjectStore, adapt: Callable[[Callable[[], object]], list[bool]]
) -> None:
    assert adapt(lambda: begin_detaching(work.root)) == [True]
    assert store.facts().adapt_failures == 0


def test_failed_adaptations_are_counted_and_shown(
    store: ProjectStore, adapt: Callable[[Callable[[], object]], list[bool]]
) -> None:
    def fail() -> None:
        raise TrainingError("training diverged")

    for n_failures in (1, 2):
        adapt(fail)
        facts = store.facts()
        assert (facts.adapt_failures, facts.adapt_error) == (n_failures, "training diverged")
        store.record(failed_at={})  # ten minutes later
    assert [error.where for error in store.errors()] == ["adapting the body"] * 2


def test_a_failure_of_label_studio_is_no_failure_of_adapting(
    store: ProjectStore, adapt: Callable[[Callable[[], object]], list[bool]]
) -> None:
    """Otherwise, three of them would put the adaptation off by a day."""

    def fail() -> None:
        raise LabelStudioError("Label Studio does not respond")

    adapt(fail)
    facts = store.facts()
    assert (facts.adapt_failures, facts.adapt_error) == (0, "")
    assert "adapt" in facts.failed_at  # so it is tried again in ten minutes
    assert store.errors()[0].message == "Label Studio does not respond"


def test_too_few_annotations_during_a_training_do_not_start_another(
    annotate: Callable[[int], None],
    n_new: Callable[[], int],
    train: Callable[[Callable[[int], None]], int],
) -> None:
    annotate(3)
    assert train(lambda _: annotate(1)) == 1
    assert n_new() == 1


def test_a_job_trains_nothing_if_no_training_is_due(
    train: Callable[[Callable[[int], None]], int],
) -> None:
    assert train(lambda _: None) == 0


def test_too_few_labels_are_reported_without_an_error(
    store: ProjectStore,
    annotate: Callable[[int], None],
    n_new: Callable[[], int],
    train: Callable[[Callable[[int], None]], int],
) -> None:
    def one_class(_: int) -> None:
        raise TooFewLabelsError("training starts when at least two classes are labeled")

    annotate(3)
    assert train(one_class) == 1
    assert "two classes" in (store.facts().waiting_for or "")
    assert store.errors() == []
    assert n_new() == 0  # the next annotations start another try


@pytest.mark.parametrize(
    ("error", "shown", "is_unread"),
    [
        (LabelStudioError("Label Studio cannot be reached"), "cannot be reached", True),
        (LabelStudioError("refused the token", 401), "refused the token", False),
        (RuntimeError("hunter2"), "unexpected RuntimeError", False),
    ],
)
def test_a_failed_training_is_shown_and_retried_after_its_delay(
    settings: Settings,
    queue: TrainingQueue,
    store: ProjectStore,
    annotate: Callable[[int], None],
    work: jobs.Work,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    shown: str,
    is_unread: bool,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(rounds, "train_round", fail)
    annotate(3)
    jobs.retrain(PROJECT)
    [shown_error] = store.errors()
    assert shown_error.where == "training"
    assert shown in shown_error.message
    assert "hunter2" not in shown_error.message
    state = observe(work.root, queue, PROJECT)
    assert state.n_new == 3  # nothing is lost
    now = state.facts.failed_at["retrain"]
    assert state.facts.unread_at == (now if is_unread else 0.0)
    assert decide(state, settings, now + RETRY_AFTER_S["retrain"] - 1).train is None
    assert decide(state, settings, now + RETRY_AFTER_S["retrain"]).train == "retrain"


@pytest.mark.parametrize(
    ("outcome", "errors", "is_due_soon"),
    [
        (None, [], False),
        (TooFewLabelsError("one class"), [], False),
        (LabelStudioError("cannot be reached"), ["cannot be reached"], True),
    ],
)
def test_a_head_is_due_again_only_after_an_error(
    settings: Settings,
    queue: TrainingQueue,
    store: ProjectStore,
    work: jobs.Work,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Exception | None,
    errors: list[str],
    is_due_soon: bool,
) -> None:
    project = work.project
    assert isinstance(project, OracleProject)
    project.import_tasks([NewTask("a", {}), NewTask("b", {})])
    project.answer(1, "a")
    project.answer(2, "b")
    save_version(work.root, meta(1))
    Registry(work.root).promote("r0001")
    store.record(
        read_at=0.0, ordered_by="r0001", finish_outlook_of="r0001", exhausted_at=time.time()
    )

    def refit_head(*_: Any) -> None:
        if not isinstance(outcome, LabelStudioError):
            revision = store.facts().revision
            store.record_success("refit", head_revision=revision, head_fitted_at=time.time())
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(rounds, "refit_head", refit_head)
    jobs.rank(PROJECT)
    assert [error.message for error in store.errors()] == errors
    state = observe(work.root, queue, PROJECT)
    assert decide(state, settings, time.time()).rank is None
    store.record(exhausted_at=time.time() + 999)
    later = decide(observe(work.root, queue, PROJECT), settings, time.time() + 61)
    assert (later.rank == "refit") is is_due_soon
    assert state.n_new == 2  # the training has not learned them


def test_a_failed_step_does_not_stop_the_rankers_other_steps(
    store: ProjectStore, work: jobs.Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def is_away(_: jobs.Work) -> None:
        raise LabelStudioError("Label Studio cannot be reached")

    def collect(_: jobs.Work) -> None:
        done.append("collect_reviews")
        store.record_success("collect_reviews", reviews_read_at=time.time())

    acts = {**jobs.STEPS, "top_up": is_away, "collect_reviews": collect}
    monkeypatch.setattr(jobs, "STEPS", acts)
    store.start_reviews(9)
    jobs.rank(PROJECT)
    assert done == ["collect_reviews"]
    assert [error.where for error in store.errors()] == ["querying images"]
    assert work.queue.hints(PROJECT).looks == 1  # the clock looks when the retry is due


DEADLOCK = DatabaseError("Label Studio failed: changes blocked each other", 500)


@pytest.mark.parametrize(("n_failures", "shown"), [(1, []), (2, [str(DEADLOCK)])])
def test_a_step_is_repeated_once_if_label_studios_database_fails(
    store: ProjectStore, work: jobs.Work, monkeypatch: pytest.MonkeyPatch,
    n_failures: int, shown: list[str],
) -> None:  # fmt: skip
    left = [DEADLOCK] * n_failures

    def top_up(_: jobs.Work) -> None:
        if left:
            raise left.pop()
        store.record_success("top_up", exhausted_at=time.time())

    monkeypatch.setattr(jobs, "STEPS", {**jobs.STEPS, "top_up": top_up})
    jobs.rank(PROJECT)
    assert left == []
    assert [error.message for error in store.errors()] == shown
    assert work.queue.hints(PROJECT).looks == 1


def test_a_finished_training_run_is_not_repeated_because_ordering_failed_in_the_database(
    annotate: Callable[[int], None], store: ProjectStore, work: jobs.Work,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    n_trainings = 0

    def train_round(*_: Any, **__: Any) -> None:
        nonlocal n_trainings
        n_trainings += 1
        began = time.time()
        store.record_reading(began, is_full=False)
        store.record_learned({}, began, trained_at=began)
        raise DEADLOCK  # while the open tasks are ordered, which the ranker then does

    monkeypatch.setattr(rounds, "train_round", train_round)
    annotate(3)
    jobs.retrain(PROJECT)
    assert n_trainings == 1
    assert work.store.errors() == []


def test_a_training_run_that_could_not_read_is_tried_once_more_and_then_reported(
    annotate: Callable[[int], None], work: jobs.Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_tries = 0

    def train_round(*_: Any, **__: Any) -> None:
        nonlocal n_tries
        n_tries += 1
        raise DEADLOCK

    monkeypatch.setattr(rounds, "train_round", train_round)
    annotate(3)
    jobs.retrain(PROJECT)
    assert n_tries == 2
    assert [error.message for error in work.store.errors()] == [str(DEADLOCK)]


def test_a_project_that_is_gone_is_no_error_of_a_step(
    store: ProjectStore, work: jobs.Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def top_up(_: jobs.Work) -> None:
        raise ProjectGoneError("http://here", 404)

    monkeypatch.setattr(jobs, "STEPS", {**jobs.STEPS, "top_up": top_up})
    jobs.rank(PROJECT)
    assert store.errors() == []
    assert "top_up" in store.facts().failed_at  # so that the next try has to wait
    assert work.queue.hints(PROJECT).looks == 1


@pytest.mark.usefixtures("store", "work")
def test_a_full_disk_fails_no_job_and_its_steps_are_tried_again_after_a_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    waits: list[float] = []

    def fill_disk(_: jobs.Work) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))  # nothing can be written
        raise LabelStudioError("Label Studio cannot be reached")

    def free_disk(seconds: float) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        waits.append(seconds)

    monkeypatch.setattr(jobs, "STEPS", dict.fromkeys(jobs.STEPS, fill_disk))
    monkeypatch.setattr(jobs, "time", SimpleNamespace(
        time=time.time, monotonic=itertools.count(step=40.0).__next__, sleep=free_disk
    ))  # fmt: skip
    try:
        jobs.rank(PROJECT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert waits == [jobs.UNRECORDED_WAIT_S]
    assert any("check MODEL_DIR, its permissions and the free space" in m for m in caplog.messages)


@pytest.mark.usefixtures("store")
def test_a_damaged_database_ends_a_rank_job_with_one_log_line(
    work: jobs.Work, caplog: pytest.LogCaptureFixture
) -> None:
    for path in work.root.glob("project.db*"):
        path.unlink()
    (work.root / "project.db").write_text("no database, but long enough to be read as one" * 9)
    jobs.rank(PROJECT)
    [line] = [message for message in caplog.messages if "project.db is damaged" in message]
    assert "restore a backup" in line


def test_the_ranker_enqueues_a_training_that_is_due(
    annotate: Callable[[int], None],
    store: ProjectStore,
    work: jobs.Work,
    redis_server: RedisServer,
) -> None:
    store.record(exhausted_at=time.time())
    work.queue.ask_for_training(PROJECT, time.time())
    annotate(1)
    jobs.rank(PROJECT)
    trains = Queue("train", connection=Redis.from_url(redis_server.url))
    assert trains.job_ids == ["retrain-p7"]


@pytest.fixture
def rescan(
    work: jobs.Work, store: ProjectStore, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], dict[str, float]]], list[bool]]:
    """Return a function that runs the job with a stand-in that records the facts it is given.

    The function returns, for each rescan, whether the source was listed.
    """
    write_record(work.root, record(PROJECT).model_copy(update={"pool": "/birds"}))
    store.record(exhausted_at=time.time())

    def run(find: Callable[[], dict[str, float]]) -> list[bool]:
        listed = []

        def rescan_once(_: Loop, *, must_list: bool, **__: Any) -> None:
            listed.append(must_list)
            now = time.time()
            begun = {"rescanned_at": now} if must_list else {}
            store.record_success("rescan", decoded_at=now, **begun, **find())

        monkeypatch.setattr("backend.rounds.rescan.rescan", rescan_once)
        jobs.rescan(PROJECT)
        return listed

    return run


def test_a_source_is_listed_once_and_its_images_are_decoded_until_none_waits(
    rescan: Callable[[Callable[[], dict[str, float]]], list[bool]],
) -> None:
    left = iter((600, 300, 0))
    assert rescan(lambda: {"undecoded_images": next(left)}) == [True, False, False]
    assert rescan(lambda: {}) == []  # a second job in the queue finds nothing to do


def test_decoding_makes_way_for_training_that_becomes_due(
    annotate: Callable[[int], None],
    rescan: Callable[[Callable[[], dict[str, float]]], list[bool]],
) -> None:
    def annotate_meanwhile() -> dict[str, float]:
        annotate(3)
        return {"undecoded_images": 600}

    assert rescan(annotate_meanwhile) == [True]


def test_a_pool_that_is_out_of_reach_is_shown_and_tried_again_after_a_minute(
    settings: Settings,
    queue: TrainingQueue,
    store: ProjectStore,
    work: jobs.Work,
    rescan: Callable[[Callable[[], dict[str, float]]], list[bool]],
) -> None:
    def fail() -> dict[str, float]:
        raise PoolError("s3://birds/: access is denied (403)")

    assert rescan(fail) == [True]
    [shown] = store.errors()
    assert shown.where == "looking for new images"
    assert shown.message == "s3://birds/: access is denied (403)"
    state = observe(work.root, queue, PROJECT)
    now = state.facts.failed_at["rescan"]
    store.record(rescanned_at=0.0)
    state = observe(work.root, queue, PROJECT)
    assert decide(state, settings, now + RETRY_AFTER_S["rescan"] - 1).train is None
    assert decide(state, settings, now + RETRY_AFTER_S["rescan"]).train == "rescan"


def test_the_ranker_enqueues_a_rescan_that_a_person_asked_for(
    work: jobs.Work, store: ProjectStore, redis_server: RedisServer
) -> None:
    write_record(work.root, record(PROJECT).model_copy(update={"pool": "/birds"}))
    store.record(exhausted_at=time.time(), rescanned_at=time.time())
    work.queue.ask_for_rescan(PROJECT, time.time())
    jobs.rank(PROJECT)
    trains = Queue("train", connection=Redis.from_url(redis_server.url))
    assert trains.job_ids == ["rescan-p7"]


def test_a_second_training_waits_for_one_whose_worker_is_gone(
    settings: Settings,
    store: ProjectStore,
    annotate: Callable[[int], None],
    train: Callable[[Callable[[int], None]], int],
) -> None:
    root = project_root(settings.model_dir, PROJECT)
    annotate(3)
    trained: list[int] = []
    second = threading.Thread(target=lambda: trained.append(train(lambda _: None)))
    try:
        with lock(root, "train"):
            second.start()
            time.sleep(0.5)
            assert trained == []
            # The first training ends and has read all annotations.
            store.record_reading(time.time(), is_full=False)
    finally:
        second.join(PATIENCE_S)
    assert trained == [0]


def test_a_long_phase_is_logged_with_its_project(
    queue: TrainingQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    report = job_progress(queue, PROJECT)
    with caplog.at_level("INFO"):
        report("scoring the pool", 0, 48_000)
        report("scoring the pool", 12_000, 48_000)
    assert caplog.messages[-1].startswith(
        "project 7: scoring the pool: 12,000 of 48,000 images (25%), about "
    )


def _report_until_ended(url: str) -> None:
    report = job_progress(TrainingQueue(url), PROJECT)
    while True:
        report("training", 0, 1)
        time.sleep(0.05)


def _worker(url: str, child_pid: Any) -> None:
    child = multiprocessing.get_context("fork").Process(target=_report_until_ended, args=(url,))
    child.start()
    child_pid.value = child.pid
    child.join()


def test_a_job_ends_when_its_worker_is_killed(redis_server: RedisServer) -> None:
    context = multiprocessing.get_context("spawn")
    child_pid = context.Value("i", 0)
    worker = context.Process(target=_worker, args=(redis_server.url, child_pid))
    worker.start()
    try:
        wait_for(lambda: child_pid.value, "the worker to start its job")
        job = psutil.Process(child_pid.value)
        time.sleep(0.3)
        assert job.is_running()
        worker.kill()
        worker.join()
        wait_for(lambda: has_ended(job), "the job to end")
    finally:
        worker.kill()
        worker.join()
        with suppress(psutil.NoSuchProcess):
            if child_pid.value:
                psutil.Process(child_pid.value).kill()


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_ranker_writes_the_labels_that_a_person_requested(
    store: ProjectStore, work: jobs.Work
) -> None:
    store.record(export_asked_at=time.time(), exhausted_at=time.time() + 999)
    jobs.rank(PROJECT)
    assert store.errors() == []
    header = labels_path(work.root).read_text().splitlines()[0]
    assert header.startswith("image,image_id,split,label")
    assert decide(observe(work.root, work.queue, PROJECT), work.settings, time.time()).rank is None
