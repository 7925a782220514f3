"""Migrate a project's JSON files and Redis keys of releases before 0.2, once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from backend.base.errors import LabelStudioError
from backend.base.labeling import Annotation, NewTask, Task, TaskReading
from backend.base.settings import load_settings
from backend.queue.training_queue import TrainingQueue
from backend.rounds.observe import observe, read_everything_changed
from backend.store import earlier_release
from backend.store.project_db import FILE
from backend.store.project_record import project_root, write_record
from backend.store.project_rows import AnnotatorFigures, OpenImage
from backend.store.project_store import ProjectStore
from backend.workers import clock as clocks
from backend.workers.clock import Clock
from scripts.research.oracle import OracleProject
from tests.conftest import RedisServer
from tests.unit.store.test_registry import record

NOON = 1_700_000_000.0
PROJECT = 7
# As 0.1 wrote them.
FILES = {
    "seen.json": '{"1": "cat", "2": "dog", "3": "(skipped)", "4": "cat (ground truth)"}',
    "answers.json": """{"read_at": "2026-01-01T11:59:00+00:00", "tasks": {"11": [{
        "annotation_id": 1, "task_id": 11, "image_id": "img-0", "annotator": 1, "label": "cat",
        "was_skipped": false, "updated_at": "2026-01-01T11:00:00Z", "is_ground_truth": false,
        "took_guess": false, "seconds": 3.5, "asked_probs": null}]}}""",
    "folds.json": '{"img-0": [0.25, 0.75], "img-1": [0.5, 0.5]}',
    "annotators.json": """[{"annotator": 1, "name": "Ada", "answers": 12, "skipped": 3,
        "agreement": 0.75, "quality": 0.8, "quality_low": 0.55, "quality_high": 0.95,
        "guesses_shown": 12, "guesses_taken": 0.5, "guesses_right": 0.25,
        "median_seconds": 4.5}]""",
    "open.json": """{"read_at": "2026-01-01T12:00:00Z", "images": [{"image_id": "img-5",
        "confidence": 0.1, "guesses": [["cat", 0.6], ["dog", 0.4]], "is_again": false,
        "picture": "data:,"}]}""",
    "review.json": '{"project_id": 9, "collected": {"img-2": "dog"}}',
}
READ: dict[str, Callable[[ProjectStore], object]] = {
    "seen.json": ProjectStore.new_annotations,
    "folds.json": lambda store: set(store.fold_probs(2)),
    "annotators.json": ProjectStore.annotators,
    "open.json": lambda store: (store.open_images(), store.facts().open_read_at),
    "review.json": lambda store: (store.reviewed(), store.facts().review_project),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    own = project_root(tmp_path, PROJECT)
    write_record(own, record(PROJECT))
    for name, content in FILES.items():
        (own / name).write_text(content)
    return own


@pytest.fixture
def store(root: Path) -> ProjectStore:
    return ProjectStore(root)


@pytest.fixture
def project() -> OracleProject:
    """Return the annotations that the last training of the earlier release learned."""
    own = OracleProject(("cat", "dog"))
    own.import_tasks([NewTask(f"img-{number}", {}) for number in range(6)])
    own.answer(1, "cat")
    own.answer(2, "dog")
    own.answer(3, None, was_skipped=True)
    own.answer(4, "cat")
    [truth] = own.answers[4]
    own.answers[4] = [replace(truth, is_ground_truth=True)]
    return own


def make_database(store: ProjectStore) -> None:
    """Write to the store for the first time, as the clock does."""
    store.record(read_at=0.0)


def names(folder: Path) -> set[str]:
    """Return all file names except those that SQLite keeps beside an open database."""
    return {path.name for path in folder.iterdir()} - {f"{FILE}-wal", f"{FILE}-shm"}


def test_files_of_an_earlier_release_are_migrated_completely_and_moved_away(
    store: ProjectStore, root: Path
) -> None:
    make_database(store)
    assert {i: [float(p) for p in row] for i, row in store.fold_probs(2).items()} == {
        "img-0": [0.25, 0.75],
        "img-1": [0.5, 0.5],
    }
    assert store.annotators() == [
        AnnotatorFigures(1, "Ada", 12, 3, 0.75, 0.8, 0.55, 0.95, 12, 0.5, 0.25, 4.5)
    ]
    assert store.open_images() == [
        OpenImage(
            image_id="img-5",
            confidence=0.1,
            guesses=(("cat", 0.6), ("dog", 0.4)),
            is_again=False,
            picture="data:,",
        )
    ]
    assert store.facts().open_read_at == datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    assert store.reviewed() == {"img-2": "dog"}
    assert store.facts().review_project == 9
    assert names(root) == {"project.json", FILE, "earlier-release"}
    assert {path.name: path.read_text() for path in (root / "earlier-release").iterdir()} == FILES


def test_learned_annotations_are_not_new_after_reading_label_studio(
    store: ProjectStore, project: OracleProject
) -> None:
    read_everything_changed(project, store)
    assert store.new_annotations() == (0, None)
    assert sum(len(of_task) for of_task in store.annotations().values()) == 4


def test_annotations_changed_during_the_update_are_new(
    store: ProjectStore, project: OracleProject
) -> None:
    project.change(1, "dog")
    del project.answers[2]
    project.answer(5, "cat")
    [unchanged] = project.answers[3]
    project.answers[5] = [replace(project.answers[5][0], annotation_id=99)]
    read_everything_changed(project, store)
    assert store.new_annotations()[0] == 3  # an edit, a deletion and a new annotation
    assert store.annotations()[3] == [unchanged]


def test_a_reader_leaves_files_alone_that_no_writer_has_migrated(
    store: ProjectStore, root: Path
) -> None:
    assert store.reviewed() == {}
    assert names(root) == {"project.json", *FILES}


def test_files_that_appear_later_are_not_migrated(store: ProjectStore, root: Path) -> None:
    make_database(store)
    (root / "review.json").write_text('{"project_id": 10, "collected": {"img-3": "cat"}}')
    make_database(store)
    assert store.reviewed() == {"img-2": "dog"}
    assert store.facts().review_project == 9


def test_a_project_without_files_of_an_earlier_release_gets_no_folder_for_them(
    tmp_path: Path,
) -> None:
    store = ProjectStore(tmp_path)
    make_database(store)
    assert names(tmp_path) == {FILE}


JUNK = {
    "nothing": b"",
    "half of it": b'{"1": "ca',
    "binary junk": bytes(range(256)),
    "a number": b"5",
    "a list of lists": b"[[[]]]",
    "nested deeply": b"[" * 100_000,
    "no numbers": b'{"img-0": [NaN, 1e999]}',
    "ids that no database holds": b'{"9223372036854775808": "cat", "1": "cat"}',
    "half a character": b'{"1": "\\ud800"}',
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_is_logged_and_left_out_while_the_others_are_migrated(
    name: str, junk: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / name).write_bytes(JUNK[junk])
    store, untouched = ProjectStore(root), ProjectStore(tmp_path / "another")
    with caplog.at_level(logging.WARNING):
        make_database(store)
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        f"{root / name} was not imported"
    ]
    make_database(untouched)
    assert READ[name](store) == READ[name](untouched)
    sound = ProjectStore(tmp_path / "sound")
    (tmp_path / "sound").mkdir()
    for other in FILES.keys() - {name}:
        (tmp_path / "sound" / other).write_text(FILES[other])
    make_database(sound)
    assert {n: read(store) for n, read in READ.items()} == {n: r(sound) for n, r in READ.items()}
    assert names(root / "earlier-release") == FILES.keys()


def test_an_interrupted_migration_changes_nothing_and_is_repeated(
    store: ProjectStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = earlier_release.take_over

    def break_off(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(earlier_release, "take_over", break_off)
        with pytest.raises(KeyboardInterrupt):
            make_database(store)
    assert store.reviewed() == {}
    assert names(root) >= FILES.keys()
    make_database(store)
    assert store.reviewed() == {"img-2": "dog"}
    assert len(store.fold_probs(2)) == 2


# Redis


@pytest.fixture
def connection(redis_server: RedisServer) -> Redis:
    """Fill Redis with two errors and a training requested at the eighth of nine changes."""
    own = Redis.from_url(redis_server.url)
    own.hset(
        "tightloop:p7:generation",
        mapping={"generation": 9, "trained": 7, "forced": 8, "first_new_at": NOON, "retry_at": 0},
    )
    for minute in (1, 2):
        at = f"2026-01-01T12:0{minute}:00+00:00"
        error = {"at": at, "where": "training", "message": f"error {minute}"}
        own.lpush("tightloop:p7:errors", json.dumps(error))
    own.hset("tightloop:p7:facts", mapping={"open": "5", "waiting_for": "null"})
    own.zadd("tightloop:p7:answered", {"img-5": NOON})
    return own


@pytest.fixture
def clock(
    root: Path,
    project: OracleProject,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], Clock]:
    """Return a function that starts the clock after the update."""
    settings = load_settings(_env_file=None, model_dir=root.parent, redis_url=redis_server.url)
    monkeypatch.setattr(clocks, "open_project", lambda *_: project)
    return lambda: Clock(settings, TrainingQueue(redis_server.url))


def tick(start: Callable[[], Clock], now: float) -> None:
    clock = start()
    clock.tick(now)
    clock.close()


def test_the_clock_migrates_errors_and_a_requested_training_once(
    clock: Callable[[], Clock],
    store: ProjectStore,
    root: Path,
    connection: Redis,
    redis_server: RedisServer,
) -> None:
    tick(clock, NOON)
    tick(clock, NOON + 1)
    errors = [(error.at, error.where, error.message) for error in store.errors()]
    assert errors == [
        ("2026-01-01T12:02:00+00:00", "training", "error 2"),
        ("2026-01-01T12:01:00+00:00", "training", "error 1"),
    ]
    queue = TrainingQueue(redis_server.url)
    state = observe(root, queue, PROJECT)
    assert state.is_training_asked
    assert connection.keys("tightloop:p7:*") == []
    store.record(trained_at=state.train_asked_at + 1)
    tick(clock, NOON + 2)
    assert not observe(root, queue, PROJECT).is_training_asked
    assert len(store.errors()) == 2


@pytest.mark.parametrize("forced", [7, 0])
def test_a_requested_training_that_has_run_is_not_requested_again(
    forced: int, clock: Callable[[], Clock], store: ProjectStore, connection: Redis
) -> None:
    connection.hset("tightloop:p7:generation", "forced", forced)
    tick(clock, NOON)
    assert store.facts().train_asked_at == 0


def test_the_first_reading_finds_annotations_that_were_not_learned(
    clock: Callable[[], Clock], store: ProjectStore, project: OracleProject, connection: Redis
) -> None:
    assert connection.ping()
    project.answer(5, "cat")
    tick(clock, NOON)
    assert store.new_annotations()[0] == 1


def test_learned_annotations_do_not_count_as_new_while_label_studio_is_unreachable(
    clock: Callable[[], Clock],
    root: Path,
    project: OracleProject,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_away(*_: object) -> None:
        raise LabelStudioError("Label Studio cannot be reached")

    monkeypatch.setattr(project, "read_tasks", is_away)
    tick(clock, NOON)
    assert observe(root, TrainingQueue(redis_server.url), PROJECT).n_new == 0


@pytest.mark.parametrize("also", [{}, {"asked_probs": [0.5, 0.5]}], ids=["the first", "the last"])
def test_annotations_kept_by_an_earlier_release_are_read_again(
    tmp_path: Path, also: dict[str, Any]
) -> None:
    row = Annotation(7, 1, "i", 1, "cat", was_skipped=False, updated_at="2026-01-01T00:00:00Z")
    kept = {"read_at": "2026-01-01T00:00:00Z", "tasks": {"1": [asdict(row) | also]}}
    (tmp_path / "answers.json").write_text(json.dumps(kept))
    store = ProjectStore(tmp_path)
    store.record(trained_at=1.0)  # the first write migrates the files
    assert (store.annotations(), store.tasks(), store.facts().read_at) == ({}, [], 0)
    annotated = Task(1, "i", is_open=False, awaits_second_opinion=False)
    waiting = Task(2, "j", is_open=True, awaits_second_opinion=False)
    readings = [
        TaskReading(annotated, "2026", (row,), None),
        TaskReading(waiting, "2026", (), None),
    ]
    store.record_tasks(readings, 2.0)
    assert store.annotations() == {1: [row]}
    assert store.tasks() == [annotated, waiting]
