"""Observe a project: combine webhooks, readings and learned annotations into one state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backend.base.labeling import (
    VALIDATION,
    Annotation,
    Asked,
    LabelConfig,
    NewTask,
    Task,
    TaskReading,
)
from backend.base.settings import Settings
from backend.labelstudio.project import CLOCK_SKEW
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import State, decide
from backend.rounds.observe import (
    TASKS_PER_TRANSACTION,
    observe,
    read_changes,
    read_everything_changed,
)
from backend.store.project_record import write_record
from backend.store.project_rows import Facts
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from scripts.research.oracle import OracleProject
from tests.conftest import RedisServer
from tests.unit.store.test_registry import meta, record
from tests.unit.store.test_registry import save as save_version

NOON = 1_700_000_000.0
PROJECT = 7
SETTINGS = Settings.model_construct(batch_size=1, retrain_after=3, retrain_wait_s=60)


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def store(tmp_path: Path) -> ProjectStore:
    """Return the store of a project that was read a minute ago and has nothing left to ask."""
    own = ProjectStore(tmp_path)
    own.record(read_at=NOON - 60, exhausted_at=NOON + 9999)
    return own


@pytest.fixture
def look(queue: TrainingQueue, tmp_path: Path) -> Callable[[], State]:
    return lambda: observe(tmp_path, queue, PROJECT)


def is_due(state: State, now: float = NOON) -> bool:
    return decide(state, SETTINGS, now).train is not None


def annotated(count: int) -> list[TaskReading]:
    """Return annotated tasks as read from Label Studio, of the images "1", "2", ..."""
    return [
        TaskReading(
            Task(number, str(number), is_open=False, awaits_second_opinion=False),
            "2026",
            (
                Annotation(
                    number,
                    number,
                    str(number),
                    1,
                    "cat",
                    was_skipped=False,
                    updated_at="2026-01-01",
                ),
            ),
            asked=None,
        )
        for number in range(1, count + 1)
    ]


def read(store: ProjectStore, tasks: list[TaskReading], now: float) -> None:
    store.record_tasks(tasks, now)
    store.record_reading(now, is_full=False)


def digests(store: ProjectStore) -> dict[int, str]:
    return {a.annotation_id: a.digest for of in store.annotations().values() for a in of}


def learn(store: ProjectStore, began: float) -> None:
    """Learn all annotations in a training that began at that moment."""
    revision = store.facts().revision
    store.record_learned(digests(store), began, trained_at=began, head_revision=revision)


# What is observed


def test_an_untouched_project_has_an_empty_state_and_stays_untouched(
    queue: TrainingQueue, tmp_path: Path
) -> None:
    root = tmp_path / "p7"
    assert observe(root, queue, PROJECT) == State(Facts())
    assert not root.exists()


def test_every_fact_of_a_project_is_observed(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State], tmp_path: Path
) -> None:
    for number in (1, 2):
        save_version(tmp_path, meta(number))
    Registry(tmp_path).promote("r0001")
    read(store, annotated(2), NOON - 50)
    opened = TaskReading(Task(9, "9", is_open=True, awaits_second_opinion=False), "2026", (), None)
    foreign = replace(opened, task=replace(opened.task, task_id=10, image_id=""), is_unmarked=True)
    read(store, [opened, foreign], NOON - 40)
    store.start_reviews(8)
    store.record_failure("refit", NOON - 4)
    store.record(
        train_asked_at=NOON - 11,
        trained_at=NOON - 12,
        head_revision=13,
        head_fitted_at=NOON - 14,
        ordered_by="r0002",
        looked_for_again=15,
        exhausted_at=NOON - 16,
        reviews_read_at=NOON - 17,
    )
    queue.hint(PROJECT, NOON - 1, ["3"])
    assert look() == State(
        facts=Facts(
            read_at=NOON - 40,
            revision=1,
            train_asked_at=NOON - 11,
            trained_at=NOON - 12,
            head_revision=13,
            head_fitted_at=NOON - 14,
            ordered_by="r0002",
            looked_for_again=15,
            exhausted_at=NOON - 16,
            review_project=8,
            reviews_read_at=NOON - 17,
            failed_at={"refit": NOON - 4},
        ),
        n_new=3,
        first_new_at=NOON - 50,
        hinted_at=NOON - 1,
        train_asked_at=NOON - 11,
        n_open=1,
        n_at_work=1,
        rounds_done=2,
        in_service="r0001",
        has_foreign_open=True,
    )


def test_the_later_of_two_presses_counts_whether_stored_in_redis_or_the_database(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    queue.ask_for_training(PROJECT, NOON)
    store.record(train_asked_at=NOON + 1)
    assert look().train_asked_at == NOON + 1
    queue.ask_for_training(PROJECT, NOON + 2)
    assert look().train_asked_at == NOON + 2
    queue.ask_for_rescan(PROJECT, NOON)
    assert look().rescan_asked_at == NOON
    store.record(rescan_asked_at=NOON + 1)
    assert look().rescan_asked_at == NOON + 1


@pytest.mark.parametrize(
    ("pool", "may_change"), [("digits", False), ("cifar10", False), ("/birds", True)]
)
def test_a_folder_may_change_but_not_cifar10_and_the_digits(
    look: Callable[[], State], tmp_path: Path, pool: str, may_change: bool
) -> None:
    write_record(tmp_path, record(PROJECT).model_copy(update={"pool": pool}))
    assert look().may_pool_change is may_change


def test_another_projects_hints_change_nothing(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    assert store.facts().read_at
    before = look()
    queue.hint(PROJECT + 1, NOON, ["a", "b", "c"])
    queue.ask_for_training(PROJECT + 1, NOON)
    assert look() == before


# When a training is due


def test_a_retrain_is_due_with_the_third_annotated_image(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    assert not is_due(look())
    queue.hint(PROJECT, NOON, ["a", "b"])
    queue.hint(PROJECT, NOON, ["b"])  # again
    assert not is_due(look())
    queue.hint(PROJECT, NOON, ["c"])
    assert is_due(look())
    assert store.new_annotations() == (0, None)  # before anything was read


def test_a_training_on_a_single_annotation_is_due_a_minute_after_its_webhook(
    queue: TrainingQueue, look: Callable[[], State]
) -> None:
    queue.hint(PROJECT, NOON, ["a"])
    queue.hint(PROJECT, NOON + 50, ["b"])
    assert not is_due(look(), NOON + 59)
    assert is_due(look(), NOON + 60)


def test_start_training_is_due_immediately_and_one_round_serves_ten_presses(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    for press in range(10):
        queue.ask_for_training(PROJECT, NOON + press)
    assert is_due(look(), NOON + 9)
    learn(store, NOON + 10)
    assert not is_due(look(), NOON + 999)


def test_a_press_during_a_round_asks_for_another(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    queue.ask_for_training(PROJECT, NOON)
    queue.ask_for_training(PROJECT, NOON + 20)
    learn(store, NOON + 10)
    assert is_due(look(), NOON + 30)


def test_annotations_during_a_round_wait_from_when_they_were_read(
    store: ProjectStore, look: Callable[[], State]
) -> None:
    read(store, annotated(3), NOON)
    learned = digests(store)
    read(store, annotated(4), NOON + 30)
    store.record_learned(learned, NOON + 40, trained_at=NOON + 10)
    state = look()
    assert (state.n_new, state.first_new_at) == (1, NOON + 30)
    assert not is_due(state, NOON + 89)
    assert is_due(state, NOON + 90)


def test_a_round_that_read_everything_leaves_nothing_new(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    queue.hint(PROJECT, NOON, ["1", "2", "3"])
    read(store, annotated(3), NOON + 1)
    learn(store, NOON + 1)
    assert (look().n_new, look().first_new_at) == (0, None)


def test_after_an_error_a_retrain_waits_unless_start_training_is_pressed(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    queue.hint(PROJECT, NOON - 1, ["a", "b", "c"])
    store.record_failure("retrain", NOON)
    assert not is_due(look(), NOON + 29)
    assert is_due(look(), NOON + 30)
    queue.ask_for_training(PROJECT, NOON + 1)
    assert is_due(look(), NOON + 1)


def test_a_reading_adds_only_annotations_without_a_webhook(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    queue.hint(PROJECT, NOON, ["1", "2"])
    assert (look().n_new, look().first_new_at) == (2, NOON)
    for _ in range(2):
        read(store, annotated(5), NOON + 1)
        assert (look().n_new, look().first_new_at) == (5, NOON + 1)


def test_an_annotation_read_before_its_webhook_arrived_counts_once(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    read(store, annotated(2), NOON)
    queue.hint(PROJECT, NOON + 1, ["1", "2"])
    assert (look().n_new, look().first_new_at) == (2, NOON)
    queue.hint(PROJECT, NOON + 2, ["3"])
    assert look().n_new == 3
    learn(store, NOON)
    assert look().n_new == 3  # these three may be other annotations
    read(store, annotated(2), NOON + 9)
    assert look().n_new == 0


def test_a_reading_restores_new_annotations_after_redis_was_lost(
    store: ProjectStore,
    queue: TrainingQueue,
    look: Callable[[], State],
    redis_server: RedisServer,
) -> None:
    read(store, annotated(3), NOON)
    learn(store, NOON)
    queue.hint(PROJECT, NOON + 1, ["4", "5", "6"])
    redis_server.flush()
    assert look().n_new == 0
    read(store, annotated(6), NOON + 2)
    assert look().n_new == 3
    assert is_due(look(), NOON + 2)


def test_simultaneous_annotations_are_all_counted(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    assert store.facts().read_at
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: queue.hint(PROJECT, NOON, [f"img-{n}"]), range(200)))
    assert look().n_new == 200


def test_a_round_that_ends_while_annotations_arrive_loses_none(
    store: ProjectStore, queue: TrainingQueue, look: Callable[[], State]
) -> None:
    for number in range(20):
        began = NOON + 10 * number
        queue.hint(PROJECT, began - 1, [f"before {number}"])
        with ThreadPoolExecutor(4) as threads:
            hints = [
                threads.submit(queue.hint, PROJECT, began + 1, [f"{number}-{n}"]) for n in range(6)
            ]
            store.record_reading(began, is_full=False)
            learn(store, began)
            [hint.result() for hint in hints]
        assert (look().n_new, look().first_new_at) == (6, began + 1)


# When a head is due


@pytest.fixture
def step(
    store: ProjectStore, look: Callable[[], State], tmp_path: Path
) -> Callable[[float], str | None]:
    """Return the rank step that is due with a version in service."""
    save_version(tmp_path, meta(1))
    Registry(tmp_path).promote("r0001")
    store.record(ordered_by="r0001", finish_outlook_of="r0001")
    return lambda now: decide(look(), SETTINGS, now).rank


def test_a_head_is_due_with_every_new_annotation_but_at_most_every_five_seconds(
    store: ProjectStore, step: Callable[[float], str | None]
) -> None:
    assert step(NOON) is None
    read(store, annotated(1), NOON)
    assert step(NOON) == "refit"
    store.record_success("refit", head_revision=1, head_fitted_at=NOON)
    assert step(NOON + 99) is None  # it has learned the annotation
    read(store, annotated(2), NOON + 1)
    assert step(NOON + 4.5) is None
    assert step(NOON + 5) == "refit"


def test_annotations_that_a_training_has_read_need_no_head(
    store: ProjectStore, step: Callable[[float], str | None]
) -> None:
    read(store, annotated(3), NOON)
    learn(store, NOON)
    assert step(NOON) is None
    read(store, annotated(4), NOON + 1)
    assert step(NOON + 1) == "refit"


def test_annotations_during_a_training_make_a_head_of_the_new_body_due(
    store: ProjectStore, step: Callable[[float], str | None]
) -> None:
    read(store, annotated(3), NOON)
    learned, revision = digests(store), store.facts().revision
    read(store, annotated(4), NOON + 1)
    store.record_success("refit", head_revision=2, head_fitted_at=NOON)  # of the old body
    store.record_learned(learned, NOON + 9, trained_at=NOON, head_revision=revision)
    assert step(NOON + 9) == "refit"


def test_fitting_a_head_does_not_postpone_the_training(
    store: ProjectStore, look: Callable[[], State]
) -> None:
    read(store, annotated(3), NOON)
    store.record_success("refit", head_revision=1, head_fitted_at=NOON)
    assert is_due(look())


# Reading Label Studio


@dataclass
class RecordingProject(OracleProject):
    """Record each request; return the `changed` tasks if asked for changes."""

    asked_after: list[datetime | None] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        self.asked_after.append(changed_after)
        for found in super().read_tasks():
            if changed_after is None or found.task.task_id in self.changed:
                yield found


@pytest.fixture
def project() -> RecordingProject:
    own = RecordingProject(("cat", "dog"))
    own.import_tasks([NewTask(f"img-{number}", {}) for number in range(3)])
    return own


@pytest.fixture
def empty(tmp_path: Path) -> ProjectStore:
    return ProjectStore(tmp_path / "empty")


def test_the_first_reading_is_full_and_later_ones_read_only_changes(
    project: RecordingProject, empty: ProjectStore
) -> None:
    read_changes(project, empty, now=NOON)
    project.answer(1, "cat")
    project.answer(2, "dog")
    project.changed = {2}
    read_changes(project, empty, now=NOON + 60)
    assert project.asked_after == [None, datetime.fromtimestamp(NOON, UTC) - CLOCK_SKEW]
    assert timedelta(seconds=10) == CLOCK_SKEW
    assert list(empty.annotations()) == [2]
    assert (empty.facts().read_at, empty.facts().full_read_at) == (NOON + 60, NOON)


@pytest.mark.parametrize("changed", [("kind", "image"), ("label", "photo")])
def test_another_control_or_image_key_in_the_label_config_makes_the_next_reading_full(
    project: RecordingProject,
    empty: ProjectStore,
    monkeypatch: pytest.MonkeyPatch,
    changed: tuple[str, str],
) -> None:
    read_changes(project, empty, now=NOON)
    from_name, image_key = changed
    config = LabelConfig(from_name, "image", image_key, ("cat", "dog"))
    monkeypatch.setattr(project, "label_config", lambda: config)
    for second in (60, 120):
        read_changes(project, empty, now=NOON + second)
    assert [after is None for after in project.asked_after] == [True, False, True, False]
    assert empty.facts().full_read_at == NOON + 60


def test_a_full_reading_can_be_requested(project: RecordingProject, empty: ProjectStore) -> None:
    read_changes(project, empty, now=NOON)
    read_changes(project, empty, is_full=True, now=NOON + 60)
    assert project.asked_after == [None, None]
    assert empty.facts().full_read_at == NOON + 60


def test_a_deleted_task_is_found_by_the_number_of_tasks(
    project: RecordingProject, empty: ProjectStore
) -> None:
    project.answer(1, "cat")
    read_everything_changed(project, empty, now=NOON)
    learn(empty, NOON)
    read_everything_changed(project, empty, now=NOON + 60)
    project.delete_tasks([1])
    read_changes(project, empty, now=NOON + 120)
    assert empty.counts().tasks == 3
    read_everything_changed(project, empty, now=NOON + 180)
    assert [moment is None for moment in project.asked_after] == [True, False, False, False, True]
    assert [task.task_id for task in empty.tasks()] == [2, 3]
    assert empty.new_annotations() == (1, NOON + 180)


def test_an_annotation_whose_task_does_not_count_as_changed_is_found_by_the_number_of_annotations(
    project: RecordingProject, empty: ProjectStore
) -> None:
    read_everything_changed(project, empty, now=NOON)
    project.answer(1, "cat")
    read_changes(project, empty, now=NOON + 60)
    assert empty.counts().annotations == 0
    read_everything_changed(project, empty, now=NOON + 120)
    assert empty.counts().annotations == 1


def test_a_full_reading_finds_what_was_restored_from_a_backup(
    project: RecordingProject, empty: ProjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [replace(task, updated_at="2023-01-01") for task in project.read_tasks()]
    monkeypatch.setattr(project, "read_tasks", lambda _=None: iter(tasks))
    read_changes(project, empty, now=NOON - 120)
    [later] = [replace(task, updated_at="2023-02-01") for task in annotated(1)]
    empty.record_tasks([later], NOON - 60)
    read_changes(project, empty, now=NOON)
    assert empty.counts().annotations == 1
    read_changes(project, empty, is_full=True, now=NOON)
    assert (empty.counts().annotations, empty.n_open()) == (0, 3)


def test_annotations_of_tasks_that_cannot_be_listed_do_not_make_each_reading_full(
    project: RecordingProject, empty: ProjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_everything_changed(project, empty, now=NOON)
    project.answer(1, "cat")
    monkeypatch.setattr(project, "count_annotations", lambda: 2)
    empty.record(unlisted_tasks=[2])
    read_everything_changed(project, empty, now=NOON + 60)
    assert [moment is None for moment in project.asked_after] == [True, False]


def test_a_reading_begins_now_by_default(project: RecordingProject, empty: ProjectStore) -> None:
    before = time.time()
    read_changes(project, empty)
    assert before <= empty.facts().read_at <= time.time()


def test_annotations_announced_during_a_reading_are_read_again(
    project: RecordingProject, empty: ProjectStore, queue: TrainingQueue, tmp_path: Path
) -> None:
    read_changes(project, empty, now=NOON)  # which took a while
    queue.hint(PROJECT, NOON + 1, ["img-0"])
    state = observe(tmp_path / "empty", queue, PROJECT)
    assert decide(state, SETTINGS, NOON + 2).rank == "read"
    read_changes(project, empty, now=NOON + 2)
    state = observe(tmp_path / "empty", queue, PROJECT)
    assert decide(state, SETTINGS, NOON + 9).rank != "read"
    assert state.n_new == 0  # nothing was annotated, despite the webhook


@dataclass
class BreaksOff(OracleProject):
    """Fail in the middle of the first reading."""

    n_readings: int = 0

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        self.n_readings += 1
        for number, found in enumerate(super().read_tasks(changed_after)):
            if self.n_readings == 1 and number == TASKS_PER_TRANSACTION + 1:
                raise ConnectionError
            yield found


def test_an_interrupted_reading_keeps_its_tasks_and_starts_over(
    empty: ProjectStore,
) -> None:
    project = BreaksOff(("cat", "dog"))
    n_tasks = 2 * TASKS_PER_TRANSACTION
    project.import_tasks([NewTask(f"img-{number}", {}) for number in range(n_tasks)])
    with pytest.raises(ConnectionError):
        read_changes(project, empty, now=NOON)
    assert empty.counts().tasks == TASKS_PER_TRANSACTION
    assert empty.facts().read_at == 0
    read_changes(project, empty, now=NOON + 9)
    assert empty.counts().tasks == n_tasks
    assert empty.facts().read_at == NOON + 9


def test_how_tasks_were_asked_is_recorded_with_them(empty: ProjectStore) -> None:
    data: dict[str, Any] = {"asked_by": "margin", "asked_round": 1, "asked_probs": [0.25, 0.75]}
    project = OracleProject(("cat", "dog"))
    project.import_tasks([NewTask("img-0", data), NewTask("img-1", {})])
    read_changes(project, empty, now=NOON)
    assert {i: list(map(float, p)) for i, p in empty.asked_probs(2).items()} == {
        "img-0": [0.25, 0.75]
    }


def test_a_skip_by_a_lone_annotator_is_asked_again_once_for_each_change(
    store: ProjectStore, look: Callable[[], State], tmp_path: Path
) -> None:
    [found] = annotated(1)
    skip = replace(found.annotations[0], label=None, was_skipped=True)
    asked = Asked("1", round=0, strategy=VALIDATION, version="")
    read(store, [replace(found, annotations=(skip,), asked=asked)], NOON)
    assert not look().must_ask_sample  # known labels validate
    by_people = {"validation": "people", "validation_labels": 30, "validation_images": 40}
    write_record(tmp_path, record(PROJECT).model_copy(update=by_people))
    assert look().must_ask_sample
    store.record(sample_asked_again=store.facts().revision)
    assert not look().must_ask_sample
    read(store, [replace(found, updated_at="2027", asked=asked)], NOON)  # a label
    assert not look().must_ask_sample
