"""Store what a project read, learned and asked in its database, with several processes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.base.errors import StoreError
from backend.base.labeling import (
    DELETED,
    IMPORTED_S,
    VALIDATION,
    Annotation,
    Asked,
    DeletedSkip,
    NewTask,
    ProjectCounts,
    Task,
    TaskReading,
)
from backend.rounds.observe import read_everything_changed
from backend.store import project_db
from backend.store.project_db import FILE, MIGRATIONS, connect, copy, reading, writing
from backend.store.project_rows import OPEN_IMAGES_KEPT, AnnotatorFigures, Facts, OpenImage
from backend.store.project_store import ProjectStore, Row
from scripts.research.oracle import OracleProject
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[3]
FIRST_MIRROR_TABLES = """
    CREATE TABLE mirror_task (
        task_id INTEGER PRIMARY KEY, image_id TEXT NOT NULL, is_open INTEGER NOT NULL,
        is_again INTEGER NOT NULL, updated_at TEXT NOT NULL, read_at REAL NOT NULL
    ) STRICT;
    CREATE INDEX mirror_task_image ON mirror_task (image_id);
    CREATE INDEX mirror_task_open ON mirror_task (task_id) WHERE is_open;
    CREATE TABLE mirror_annotation (
        annotation_id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL, image_id TEXT NOT NULL,
        annotator INTEGER, label TEXT, was_skipped INTEGER NOT NULL, updated_at TEXT NOT NULL,
        is_ground_truth INTEGER NOT NULL, took_guess INTEGER NOT NULL, seconds REAL, answer TEXT,
        learned TEXT, changed_at REAL NOT NULL
    ) STRICT;
    CREATE INDEX mirror_annotation_task ON mirror_annotation (task_id);
    CREATE INDEX mirror_annotation_time ON mirror_annotation (updated_at);
    CREATE INDEX mirror_annotation_new ON mirror_annotation (changed_at)
        WHERE answer IS NOT learned;
    CREATE TABLE mirror_open (place INTEGER PRIMARY KEY, image TEXT NOT NULL) STRICT;
"""
NOON = 1_700_000_000.0
NOBODY = 65_534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "p7"


@pytest.fixture
def store(root: Path) -> ProjectStore:
    return ProjectStore(root)


def annotation(annotation_id: int, label: str | None = "cat", **changes: Any) -> Annotation:
    """Return an annotation, by default of task 1."""
    fields: dict[str, Any] = {
        "task_id": 1,
        "image_id": f"img-{changes.get('task_id', 1)}",
        "annotator": 1,
        "was_skipped": False,
        "updated_at": "2026-01-01T12:00:00Z",
    }
    return Annotation(annotation_id, label=label, **{**fields, **changes})


def task(
    task_id: int,
    *annotations: Annotation,
    updated_at: str = "2026-01-01T12:00:00Z",
    is_again: bool = False,
    asked: Asked | None = None,
) -> TaskReading:
    """Return a task as read: open unless it has an annotation."""
    own = Task(task_id, f"img-{task_id}", is_open=not annotations, awaits_second_opinion=is_again)
    return TaskReading(own, updated_at, annotations, asked)


def learn(store: ProjectStore, at: float = NOON) -> None:
    """Record all annotations as learned, as a training does."""
    every = [a for of_task in store.annotations().values() for a in of_task]
    store.record_learned({a.annotation_id: a.digest for a in every}, at)


def rows_of(root: Path, query: str) -> list[Any]:
    with reading(root) as db:
        return db.execute(query).fetchall()


READERS: dict[str, tuple[Callable[[ProjectStore], object], object]] = {
    "facts": (ProjectStore.facts, Facts()),
    "n_tasks": (ProjectStore.n_tasks, 0),
    "n_open": (ProjectStore.n_open, 0),
    "counts": (ProjectStore.counts, ProjectCounts(0, 0, 0, 0)),
    "tasks": (ProjectStore.tasks, []),
    "impossible_times": (ProjectStore.impossible_times, []),
    "foreign_tasks": (ProjectStore.foreign_tasks, set()),
    "n_foreign_open": (ProjectStore.n_foreign_open, 0),
    "foreign_images": (ProjectStore.foreign_images, set()),
    "copies": (ProjectStore.copies, []),
    "listed_tasks": (ProjectStore.listed_tasks, []),
    "annotations": (ProjectStore.annotations, {}),
    "annotated_images": (ProjectStore.annotated_images, set()),
    "new_annotations": (ProjectStore.new_annotations, (0, None)),
    "new_images": (ProjectStore.new_images, set()),
    "queried_images": (ProjectStore.queried_images, set()),
    "label_counts": (ProjectStore.label_counts, {}),
    "asked": (ProjectStore.asked, {}),
    "asked_probs": (lambda store: store.asked_probs(2), {}),
    "fold_probs": (lambda store: store.fold_probs(2), {}),
    "recent_annotations": (lambda store: store.recent_annotations(200), {}),
    "last_annotated": (ProjectStore.last_annotated, {}),
    "annotation_times": (lambda store: store.annotation_times(200), []),
    "n_queried": (ProjectStore.n_queried, 0),
    "validation_tasks": (ProjectStore.validation_tasks, []),
    "validation_annotations": (ProjectStore.validation_annotations, {}),
    "deleted_skips": (ProjectStore.deleted_skips, []),
    "reviewed": (ProjectStore.reviewed, {}),
    "open_images": (ProjectStore.open_images, []),
    "annotators": (ProjectStore.annotators, []),
    "errors": (ProjectStore.errors, []),
}
WRITERS: dict[str, Callable[[ProjectStore], object]] = {
    "record": lambda store: store.record(read_at=NOON),
    "record_failure": lambda store: store.record_failure("read", NOON),
    "record_success": lambda store: store.record_success("read"),
    "record_tasks": lambda store: store.record_tasks([task(1)], NOON),
    "record_reading": lambda store: store.record_reading(NOON, is_full=True),
    "forget_tasks": lambda store: store.forget_tasks([1], NOON),
    "adopt_images": lambda store: store.adopt_images(["img"]),
    "expect_older_tasks": ProjectStore.expect_older_tasks,
    "record_learned": lambda store: store.record_learned({1: "cat"}, NOON),
    "record_new_classes": ProjectStore.record_new_classes,
    "record_asked": lambda store: store.record_asked([Asked("img", 1, "margin", "r0001")]),
    "record_fold_probs": lambda store: store.record_fold_probs([], []),
    "record_deleted_skip": lambda store: store.record_deleted_skip(DeletedSkip(1, "img", 7)),
    "start_reviews": lambda store: store.start_reviews(9),
    "record_reviewed": lambda store: store.record_reviewed("img", "cat"),
    "record_open_images": lambda store: store.record_open_images(NOON, []),
    "record_annotators": lambda store: store.record_annotators([]),
    "record_error": lambda store: store.record_error("training", "the disk is full"),
}


def test_every_public_method_of_the_store_is_tested_here() -> None:
    methods = {name for name in dir(ProjectStore) if not name.startswith("_")}
    assert methods == {*READERS, *WRITERS}


# Without a database, and with a damaged one


@pytest.mark.parametrize("method", READERS)
def test_a_store_without_a_database_is_empty_and_reading_creates_no_file(
    method: str, store: ProjectStore, root: Path
) -> None:
    read, empty = READERS[method]
    assert read(store) == empty
    assert not root.exists()


@pytest.mark.parametrize("method", READERS)
def test_a_database_that_another_process_is_still_creating_is_empty(
    method: str, store: ProjectStore, root: Path
) -> None:
    root.mkdir()
    (root / FILE).touch()
    read, empty = READERS[method]
    assert read(store) == empty


@pytest.mark.parametrize("method", WRITERS)
def test_any_first_write_creates_the_database(method: str, store: ProjectStore, root: Path) -> None:
    WRITERS[method](store)
    assert rows_of(root, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert rows_of(root, "PRAGMA journal_mode") == [("wal",)]


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    root = tmp_path / "models?mode=memory&a=100%25#ä" / "p7"
    ProjectStore(root).record(read_at=NOON)
    assert ProjectStore(root).facts().read_at == NOON
    assert (root / FILE).exists()


ALL_METHODS = {**{name: read for name, (read, _) in READERS.items()}, **WRITERS}


@pytest.mark.parametrize("method", ALL_METHODS)
def test_the_database_of_a_newer_release_is_refused_with_advice_to_update(
    method: str, store: ProjectStore, root: Path
) -> None:
    store.record(read_at=NOON)
    with closing(sqlite3.connect(root / FILE)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match=r"newer release of Tightloop: update"):
        ALL_METHODS[method](store)


@pytest.mark.parametrize("junk", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_damaged_database_is_named_with_advice(
    method: str, junk: bytes, store: ProjectStore, root: Path
) -> None:
    root.mkdir()
    (root / FILE).write_bytes(junk)
    with pytest.raises(StoreError, match=r"project\.db is damaged .*: restore a backup, or move"):
        ALL_METHODS[method](store)


def test_a_damaged_page_is_named_as_damage_to_the_database(store: ProjectStore, root: Path) -> None:
    store.record_tasks([task(n) for n in range(2000)], NOON)
    content = bytearray((root / FILE).read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)  # the schema stays
    (root / FILE).write_bytes(content)
    with pytest.raises(StoreError, match=r"project\.db is damaged"):
        store.tasks()


@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_file_in_the_folders_place_is_a_store_error(
    method: str, store: ProjectStore, root: Path
) -> None:
    root.write_text("in the way")
    if method in READERS:  # readers find no database
        ALL_METHODS[method](store)
        return
    with pytest.raises(StoreError, match="check MODEL_DIR"):
        ALL_METHODS[method](store)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_folder_in_the_databases_place_is_a_store_error(
    method: str, store: ProjectStore, root: Path
) -> None:
    (root / FILE).mkdir(parents=True)
    advice = "MODEL_DIR" if method in READERS else "cannot be opened .* otherwise check MODEL_DIR"
    with pytest.raises(StoreError, match=advice):
        ALL_METHODS[method](store)


def test_recording_an_unknown_fact_is_a_type_error_and_changes_nothing(
    store: ProjectStore,
) -> None:
    with pytest.raises(TypeError, match="no such fact: readat"):
        store.record(read_at=NOON, readat=NOON)
    assert store.facts() == Facts()


# Read-only folders


@contextmanager
def read_only_to_us(folder: Path) -> Iterator[None]:
    """Make a folder read-only. Root can write anywhere, so it becomes another user meanwhile."""
    is_root = os.geteuid() == 0
    paths = [folder, *folder.iterdir()]
    for path in paths:
        path.chmod(0o555)
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o644)


@pytest.fixture
def open_root() -> Iterator[Path]:
    """Return a folder that other users can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="tightloop-store-"))
    folder.chmod(0o755)
    yield folder / "p7"
    shutil.rmtree(folder)


def test_a_read_only_folder_can_be_read_while_a_writer_has_the_database_open(
    open_root: Path,
) -> None:
    store = ProjectStore(open_root)
    store.record(read_at=NOON)
    with closing(connect(open_root)) as keeper:
        with read_only_to_us(open_root):
            assert store.facts().read_at == NOON
        # Readers see the writer's change before it reaches the file itself.
        keeper.execute("UPDATE own_fact SET value = '5.0'")
        with read_only_to_us(open_root):
            assert store.facts().read_at == 5
            names = {path.name for path in open_root.iterdir()}
        assert names == {FILE, f"{FILE}-wal", f"{FILE}-shm"}


def test_a_read_only_folder_without_a_writer_is_read_and_left_unchanged(open_root: Path) -> None:
    store = ProjectStore(open_root)
    store.record(read_at=NOON)
    assert [path.name for path in open_root.iterdir()] == [FILE]
    with read_only_to_us(open_root):
        assert store.facts().read_at == NOON
        assert [path.name for path in open_root.iterdir()] == [FILE]


def test_an_unreadable_write_ahead_log_in_a_read_only_folder_is_a_store_error(
    open_root: Path,
) -> None:
    store = ProjectStore(open_root)
    store.record(read_at=NOON)
    (open_root / f"{FILE}-wal").touch()  # left by a writer that is gone, without its shared memory
    with (
        read_only_to_us(open_root),
        pytest.raises(
            StoreError, match=r"only read, it must wait for the clock; otherwise check MODEL"
        ),
    ):
        store.facts()


def test_writing_without_permission_is_a_store_error(open_root: Path) -> None:
    store = ProjectStore(open_root)
    store.record(read_at=NOON)
    with (
        closing(connect(open_root)),
        read_only_to_us(open_root),
        pytest.raises(StoreError, match="permissions"),
    ):
        store.record(read_at=5.0)
    assert store.facts().read_at == NOON


# Concurrent writers


WRITER = """
import sys
from pathlib import Path
from backend.base.labeling import Task, TaskReading
from backend.store.project_store import ProjectStore, Row
store, name = ProjectStore(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    store.record_reviewed(f"{name}-{number}", "cat")
    store.record_failure(name, 1.0)
    task = Task(number, f"img-{number}", is_open=True, awaits_second_opinion=False)
    store.record_tasks([TaskReading(task, "2026", (), None)], 1.0)
"""


def test_processes_that_write_simultaneously_from_the_start_lose_nothing(root: Path) -> None:
    names = ("clock", "ranker", "trainer")
    root.mkdir()
    (root / "seen.json").write_text('{"5": "cat"}')  # all of them find it, one migrates it
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), name],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in names
    ]  # fmt: skip
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            writer.communicate(timeout=PATIENCE_S)
    finally:
        for writer in writers:
            writer.kill()  # does nothing once the process has ended
            writer.wait()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    store = ProjectStore(root)
    assert len(store.reviewed()) == 3 * 25
    assert set(store.facts().failed_at) == set(names)
    assert len(store.tasks()) == 25
    assert rows_of(root, "SELECT learned FROM mirror_annotation") == [("cat",)]


def test_a_reader_never_sees_a_partial_write(store: ProjectStore, root: Path) -> None:
    store.record_reviewed("img-1", "cat")
    with writing(root) as db:
        db.execute("DELETE FROM own_reviewed")
        assert store.reviewed() == {"img-1": "cat"}
        db.execute("INSERT INTO own_reviewed VALUES ('img-2', 'dog')")
    assert store.reviewed() == {"img-2": "dog"}


def test_an_interrupted_write_changes_nothing(store: ProjectStore) -> None:
    def breaks_off() -> Iterator[Asked]:
        yield Asked("img-2", 1, "margin", "r0001", 0.5, (0.5, 0.5))
        raise RuntimeError

    store.record_tasks([task(1), task(2)], NOON)
    store.record_asked([Asked("img-1", 1, "margin", "r0001", 0.5, (0.5, 0.5))])
    with pytest.raises(RuntimeError):
        store.record_asked(breaks_off())
    assert store.asked_probs(2).keys() == {"img-1"}


def test_a_connection_opened_for_reading_cannot_write(store: ProjectStore, root: Path) -> None:
    store.record_reviewed("img-1", "cat")
    with pytest.raises(StoreError, match="may only read"):
        rows_of(root, "DELETE FROM own_reviewed")
    assert store.reviewed() == {"img-1": "cat"}


# Facts


def test_recorded_facts_are_kept_and_others_stay_unchanged(store: ProjectStore) -> None:
    store.record(read_at=NOON, ordered_by="r0007", waiting_for="two classes")
    store.record(read_at=NOON + 1, waiting_for=None)
    assert store.facts() == Facts(read_at=NOON + 1, ordered_by="r0007")


def test_a_failure_is_kept_until_its_own_step_succeeds(store: ProjectStore) -> None:
    store.record_failure("read", NOON)
    store.record_failure("refit", NOON + 1)
    store.record_failure("read", NOON + 2)
    assert store.facts().failed_at == {"read": NOON + 2, "refit": NOON + 1}
    store.record_success("read", ordered_by="r0007")
    assert store.facts() == Facts(failed_at={"refit": NOON + 1}, ordered_by="r0007")


# The mirror of Label Studio


def test_tasks_and_annotations_are_returned_as_read_oldest_first(
    store: ProjectStore,
) -> None:
    given = (
        annotation(11, None, was_skipped=True, annotator=2, task_id=3),
        annotation(10, "dog", is_ground_truth=True, accepted_guess=True, seconds=4.5, task_id=3),
    )
    seeded = annotation(7, "cat", annotator=None, task_id=2)
    store.record_tasks([task(3, *given, is_again=True), task(1), task(2, seeded)], NOON)
    assert store.tasks() == [
        Task(1, "img-1", is_open=True, awaits_second_opinion=False),
        Task(2, "img-2", is_open=False, awaits_second_opinion=False),
        Task(3, "img-3", is_open=False, awaits_second_opinion=True),
    ]
    assert store.annotations() == {2: [seeded], 3: [given[1], given[0]]}


def test_tasks_and_annotations_are_counted(store: ProjectStore) -> None:
    skipped = annotation(2, None, was_skipped=True, task_id=2)
    store.record_tasks(
        [task(1, annotation(1), is_again=True), task(2, skipped), task(3), task(4)], NOON
    )
    assert store.counts() == ProjectCounts(
        tasks=4, annotations=1, skipped=1, open=2, awaiting_second_opinion=1
    )
    assert store.n_open() == 2
    learn(store)
    store.record_tasks([task(1), task(2)], NOON + 1)  # both annotations were deleted
    assert store.counts() == ProjectCounts(tasks=4, annotations=0, skipped=0, open=4)


def test_a_task_that_is_read_again_replaces_itself(store: ProjectStore) -> None:
    store.record_tasks([task(1)], NOON)
    store.record_tasks([task(1, annotation(5))], NOON + 1)
    changed = annotation(
        5,
        "dog",
        image_id="img-x",
        annotator=2,
        updated_at="2026-01-02T12:00:00Z",
        is_ground_truth=True,
        accepted_guess=True,
        seconds=4.5,
    )
    found = TaskReading(
        Task(1, "img-x", is_open=False, awaits_second_opinion=True),
        "2026-01-02T12:00:00Z",
        (changed,),
        None,
    )
    store.record_tasks([found], NOON + 2)
    assert store.tasks() == [found.task]
    assert store.annotations() == {1: [changed]}
    skipped = replace(changed, label=None, was_skipped=True)
    store.record_tasks([replace(found, annotations=(skipped,))], NOON + 3)
    assert store.annotations() == {1: [skipped]}
    assert (store.n_open(), len(store.tasks())) == (0, 1)


@pytest.mark.parametrize(
    "later_first", [False, True], ids=["the later comes last", "the later comes first"]
)
def test_of_two_readings_of_a_task_the_one_that_label_studio_dates_later_wins(
    store: ProjectStore, later_first: bool
) -> None:
    readings = [
        task(1, annotation(5, "cat"), updated_at="2023-01-01T12:00:00.100000Z"),
        task(1, annotation(5, "dog"), updated_at="2023-01-01T12:00:00.200000Z"),
    ]
    for number, found in enumerate(reversed(readings) if later_first else readings):
        store.record_tasks([found], NOON + number)
    assert store.annotations() == {1: [annotation(5, "dog")]}


def test_a_task_whose_older_reading_is_written_last_is_not_deleted(store: ProjectStore) -> None:
    store.record_tasks([task(1, updated_at="2026-01-02T00:00:00Z")], NOON)
    store.record_tasks([task(1, updated_at="2026-01-01T00:00:00Z")], NOON + 20)
    store.record_reading(NOON + 10, is_full=True)
    assert [found.task_id for found in store.tasks()] == [1]


@pytest.mark.parametrize("dated", ["2026-01-01T12:00:00Z", "2025-01-01T12:00:00Z"])
def test_overlapping_full_readings_delete_no_existing_task(store: ProjectStore, dated: str) -> None:
    store.record_tasks([task(1)], NOON + 10)  # by the later one
    store.record_tasks([task(1, updated_at=dated)], NOON)  # by the earlier one, which is slow
    store.record_reading(NOON + 10, is_full=True)
    assert [found.task_id for found in store.tasks()] == [1]


def test_a_full_reading_deletes_missing_tasks_and_counts_them_as_changes(
    store: ProjectStore,
) -> None:
    store.record_tasks([task(1, annotation(5)), task(2, annotation(6, task_id=2)), task(3)], NOON)
    learn(store)
    revision = store.facts().revision
    store.record_tasks([task(1, annotation(5))], NOON + 9)
    store.record_reading(NOON + 9, is_full=True)
    assert [found.task_id for found in store.tasks()] == [1]
    assert store.annotations() == {1: [annotation(5)]}
    assert store.new_annotations() == (
        1,
        NOON + 9,
    )  # the annotation of task 2; task 3 had none
    assert store.facts().revision == revision + 1
    assert (store.facts().read_at, store.facts().full_read_at) == (NOON + 9, NOON + 9)


def test_a_reading_of_changes_deletes_nothing(store: ProjectStore) -> None:
    store.record_tasks([task(1, annotation(5)), task(2)], NOON)
    store.record_reading(NOON + 9, is_full=False)
    assert len(store.tasks()) == 2
    assert (store.facts().read_at, store.facts().full_read_at) == (NOON + 9, 0)


def test_a_slower_earlier_reading_does_not_move_read_at_backwards(
    store: ProjectStore,
) -> None:
    store.record_reading(NOON + 9, is_full=True)
    store.record_reading(NOON, is_full=True)
    assert (store.facts().read_at, store.facts().full_read_at) == (NOON + 9, NOON + 9)


def test_tasks_deleted_in_label_studio_are_removed_with_their_annotations(
    store: ProjectStore,
) -> None:
    store.record_tasks([task(1, annotation(5)), task(2), task(3)], NOON)
    learn(store)
    revision = store.facts().revision
    store.forget_tasks([2, 99], NOON + 1)
    assert [found.task_id for found in store.tasks()] == [1, 3]
    assert store.facts().revision == revision
    store.forget_tasks([1], NOON + 2)
    assert store.annotations() == {}
    assert store.new_annotations() == (1, NOON + 2)
    assert store.facts().revision == revision + 1


def test_the_revision_rises_only_when_a_reading_finds_a_changed_annotation(
    store: ProjectStore,
) -> None:
    revisions = []
    for found in (
        task(1),  # open, without annotations
        task(1, annotation(5)),  # annotated
        task(1, annotation(5)),  # nothing new
        task(1, annotation(5, seconds=9.0, annotator=3)),  # the same label
        task(1, annotation(5, "dog")),  # edited
        task(1, annotation(5, "dog"), annotation(6, "dog")),  # a second one
        task(1, annotation(6, "dog")),  # deleted
    ):
        store.record_tasks([found], NOON)
        revisions.append(store.facts().revision)
    assert revisions == [0, 1, 1, 1, 2, 3, 4]


def empty_mirror(root: Path) -> None:
    """Empty all tables that mirror Label Studio."""
    with writing(root) as db:
        names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            if name.startswith("mirror_"):
                db.execute(f"DELETE FROM {name}")


def test_lost_mirror_tables_are_filled_again_from_label_studio(
    store: ProjectStore, root: Path
) -> None:
    project = OracleProject(("cat", "dog"))
    project.import_tasks([NewTask(name, {}) for name in ("a", "b", "c")])
    project.answer(1, "cat")
    project.answer(2, None, was_skipped=True)
    store.record_asked([Asked("a", 1, "margin", "r0001", 0.5, (0.5, 0.5))])
    store.record_reviewed("a", "cat")
    store.record_error("training", "the disk is full")
    store.record_fold_probs(["b"], [np.array([0.1, 0.9], np.float32)])
    read_everything_changed(project, store)
    before = all_read(store)
    empty_mirror(root)
    assert (store.tasks(), store.annotations()) == ([], {})
    assert store.reviewed() == {"a": "cat"}
    read_everything_changed(project, store)
    assert all_read(store) == before


def all_read(store: ProjectStore) -> dict[str, object]:
    """Return the results of all reading methods except times of reading."""
    found = {name: read(store) for name, (read, _) in READERS.items() if name != "facts"}
    return {
        **found,
        "new_annotations": store.new_annotations()[0],
        "asked_probs": numbers(store.asked_probs(2)),
        "fold_probs": numbers(store.fold_probs(2)),
    }


def numbers(probs: Mapping[str, Row]) -> dict[str, list[float]]:
    """Convert probabilities to lists, which can be compared."""
    return {image_id: [float(p) for p in row] for image_id, row in probs.items()}


# New annotations


def test_annotations_are_new_until_they_are_learned(store: ProjectStore) -> None:
    store.record_tasks([task(1, annotation(5))], NOON)
    store.record_tasks([task(2, annotation(6, task_id=2))], NOON + 10)
    assert store.new_annotations() == (2, NOON)
    learn(store)
    assert store.new_annotations() == (0, None)
    store.record_tasks([task(1, annotation(5)), task(2, annotation(6, task_id=2))], NOON + 20)
    assert store.new_annotations() == (0, None)


CHANGES: dict[str, TaskReading] = {
    "an edit": task(1, annotation(5, "dog")),
    "a skip in its place": task(1, annotation(5, None, was_skipped=True)),
    "a ground truth": task(1, annotation(5, is_ground_truth=True)),
    "emptied": task(1, annotation(5, None)),
    "a deletion": task(1),
    "a second annotation": task(1, annotation(5), annotation(6)),
    "a skip beside it": task(1, annotation(5), annotation(6, None, was_skipped=True)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_to_a_learned_annotation_is_new(change: str, store: ProjectStore) -> None:
    store.record_tasks([task(1, annotation(5))], NOON)
    learn(store)
    store.record_tasks([CHANGES[change]], NOON + 1)
    assert store.new_annotations() == (1, NOON + 1)
    store.record_tasks([CHANGES[change]], NOON + 2)  # read once more
    assert store.new_annotations() == (1, NOON + 1)
    learn(store)
    assert store.new_annotations() == (0, None)


def test_a_change_that_is_undone_is_not_new(store: ProjectStore) -> None:
    for now, learned in (
        (NOON, annotation(5, "cat")),
        (NOON + 10, annotation(5, None, was_skipped=True)),
        (NOON + 20, annotation(5, None)),
    ):
        store.record_tasks([task(1, learned)], now)
        learn(store)
        store.record_tasks([task(1, annotation(5, "dog"))], now + 1)
        assert store.new_annotations()[0] == 1
        store.record_tasks([task(1, learned)], now + 2)
        assert store.new_annotations() == (0, None)


def test_an_annotation_deleted_before_any_training_leaves_no_row(
    store: ProjectStore, root: Path
) -> None:
    store.record_tasks([task(1, annotation(5))], NOON)
    store.record_tasks([task(1)], NOON + 1)
    assert store.new_annotations() == (0, None)
    assert rows_of(root, "SELECT * FROM mirror_annotation") == []


def test_a_learned_annotation_whose_deletion_was_learned_leaves_no_row(
    store: ProjectStore, root: Path
) -> None:
    store.record_tasks([task(1, annotation(5))], NOON)
    learn(store)
    store.record_tasks([task(1)], NOON + 1)
    learn(store)
    assert rows_of(root, "SELECT * FROM mirror_annotation") == []


def test_annotations_changed_during_a_training_stay_new(store: ProjectStore, root: Path) -> None:
    kept, edited, deleted = (annotation(n, task_id=n) for n in (1, 2, 3))
    store.record_tasks([task(1, kept), task(2, edited), task(3, deleted)], NOON)
    began_with = {1: "cat", 2: "cat", 3: "cat"}
    store.record_tasks(
        [task(2, annotation(2, "dog", task_id=2)), task(3), task(4, annotation(4, task_id=4))],
        NOON + 5,
    )
    store.record_learned(began_with, NOON + 9)
    assert store.new_annotations()[0] == 3  # the edit, the deletion and the annotation of task 4
    query = "SELECT annotation_id FROM mirror_annotation WHERE answer IS NOT learned"
    assert {annotation_id for (annotation_id,) in rows_of(root, query)} == {2, 3, 4}
    learn(store)
    assert store.new_annotations() == (0, None)


def test_a_deletion_during_a_training_stays_new_whether_it_was_learned_before_or_not(
    store: ProjectStore,
) -> None:
    store.record_tasks([task(1, annotation(5))], NOON)
    for moment in (NOON + 1, NOON + 11):
        store.record_tasks([task(1, annotation(5))], moment)
        store.record_tasks([task(1)], moment + 1)  # while a training learns it
        store.record_learned({5: "cat"}, moment + 2)
        assert store.new_annotations()[0] == 1
        assert store.new_annotations()[1] in (moment + 1, moment + 2)


def test_a_training_records_its_results_and_clears_its_failure(store: ProjectStore) -> None:
    store.record_failure("retrain", NOON)
    store.record_failure("read", NOON)
    store.record_learned({}, NOON + 1, trained_at=NOON, head_revision=3)
    assert store.facts() == Facts(trained_at=NOON, head_revision=3, failed_at={"read": NOON})


def test_counting_new_annotations_reads_only_new_ones(
    store: ProjectStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.record_tasks([task(n, annotation(n, task_id=n)) for n in range(1, 300)], NOON)
    learn(store)
    queries: list[str] = []

    @contextmanager
    def traced(root: Path) -> Iterator[sqlite3.Connection]:
        with reading(root) as db:
            db.set_trace_callback(queries.append)
            yield db

    with monkeypatch.context() as patch:
        patch.setattr(project_db, "reading", traced)
        store.new_annotations()
        store.new_images()
        store.n_open()
    with reading(root) as db:
        plans = [db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall() for query in queries]
    scans = [step for plan in plans for (*_, step) in plan if "SCAN" in step]
    assert [step.split(" INDEX ")[-1] for step in scans] == [
        "mirror_annotation_new", "mirror_task_foreign", "mirror_annotation_new", "mirror_task_open",
    ]  # fmt: skip


# Tasks of attached projects


def attached(task_id: int, address: str, *annotations: Annotation) -> TaskReading:
    """Return a task of an attached project as read: open unless it has an annotation."""
    read = task(task_id, *annotations)
    return replace(read, task=replace(read.task, image_id=f"ls-{task_id}"), address=address)


def test_of_an_attached_project_only_asked_or_annotated_tasks_count_as_queried(
    store: ProjectStore,
) -> None:
    given = annotation(1, task_id=2, image_id="ls-2")
    skip = annotation(2, None, task_id=3, image_id="ls-3", was_skipped=True)
    store.record_tasks(
        [attached(1, "/a"), attached(2, "/b", given), attached(3, "/c", skip), attached(4, "/d")],
        NOON,
    )
    store.record_asked([Asked("ls-4", 1, "margin", "r0001")])
    assert [t.task_id for t in store.tasks()] == [2, 3, 4]
    assert store.n_open() == 1
    assert store.counts() == ProjectCounts(tasks=3, annotations=1, skipped=1, open=1)
    assert store.n_tasks() == 4
    listed = [(t.task_id, t.address) for t in store.listed_tasks()]
    assert listed == [(1, "/a"), (2, "/b"), (3, "/c"), (4, "/d")]


def test_our_own_tasks_all_count_as_queried_and_are_not_listed(store: ProjectStore) -> None:
    store.record_tasks([task(1), task(2, annotation(1, task_id=2))], NOON)
    assert [t.task_id for t in store.tasks()] == [1, 2]
    assert (store.n_open(), store.n_tasks(), store.listed_tasks()) == (1, 2, [])


def test_the_tasks_revision_rises_when_a_task_of_an_attached_project_comes_goes_or_moves(
    store: ProjectStore,
) -> None:
    def revision_after(*tasks: TaskReading) -> int:
        store.record_tasks(tasks, NOON)
        return store.facts().tasks_revision

    assert revision_after(task(9)) == 0  # our own
    assert revision_after(attached(1, "/a"), attached(2, "/b")) == 1
    assert revision_after(attached(1, "/a"), attached(2, "/b")) == 1
    given = annotation(1, task_id=1, image_id="ls-1")
    assert revision_after(attached(1, "/a", given)) == 1
    assert revision_after(attached(2, "/elsewhere")) == 2
    assert [t.address for t in store.listed_tasks()] == ["/a", "/elsewhere"]
    store.forget_tasks([2], NOON)
    store.forget_tasks([2], NOON)
    store.forget_tasks([9], NOON)
    assert store.facts().tasks_revision == 3
    store.record_reading(NOON + 1, is_full=True)
    assert (store.facts().tasks_revision, store.listed_tasks()) == (4, [])


def test_an_annotation_of_another_control_is_told_from_an_empty_one(store: ProjectStore) -> None:
    other = annotation(1, None, is_of_other_control=True)
    empty, truth = annotation(2, None), replace(other, annotation_id=3, is_ground_truth=True)
    named = annotation(4, "(another control)")  # a class with an unlucky name
    store.record_tasks([task(1, other, empty, truth, named)], NOON)
    found = {a.annotation_id: a.is_of_other_control for a in store.annotations()[1]}
    assert found == {1: True, 2: False, 3: True, 4: False}


def test_images_with_new_or_deleted_annotations_are_listed_once(
    store: ProjectStore,
) -> None:
    store.record_tasks(
        [task(n, annotation(n, task_id=n), annotation(10 + n, task_id=n)) for n in range(4)], NOON
    )
    assert store.new_images() == {"img-0", "img-1", "img-2", "img-3"}
    learn(store)
    assert store.new_images() == set()
    store.record_tasks(
        [task(1, annotation(1, "dog", task_id=1), annotation(11, task_id=1)), task(2)], NOON
    )
    assert store.new_images() == {"img-1", "img-2"}


# How images were asked


def test_the_probabilities_an_image_was_asked_with_are_kept_exactly(store: ProjectStore) -> None:
    probs = np.array([0.1, 0.2, 0.7], np.float32)
    asked = Asked("img-1", 3, "margin", "r0003", 0.5, tuple(map(float, probs)))
    store.record_asked([asked])
    assert store.asked_probs(3) == {}  # no task has it
    assert store.queried_images() == {"img-1"}
    assert store.asked() == {"img-1": Asked("img-1", 3, "margin", "r0003", 0.5)}
    store.record_tasks([task(1)], NOON)
    [(image_id, row)] = store.asked_probs(3).items()
    assert image_id == "img-1"
    assert row.dtype == np.float32
    assert row.tolist() == probs.tolist()


def test_a_class_that_joined_later_has_the_probability_0_and_more_classes_are_left_out(
    store: ProjectStore,
) -> None:
    store.record_tasks([task(1), task(2)], NOON)
    store.record_asked(
        [
            Asked("img-1", 1, "margin", "r0001", 0.5, (0.5, 0.5)),
            Asked("img-2", 0, "random", ""),  # queried without a model
        ]
    )
    assert set(store.asked_probs(2)) == {"img-1"}
    assert numbers(store.asked_probs(3)) == {"img-1": [0.5, 0.5, 0.0]}
    assert store.asked_probs(1) == {}


def test_only_the_latest_query_of_an_image_is_kept(store: ProjectStore) -> None:
    store.record_tasks([task(1)], NOON)
    for probs in ((0.25, 0.75), (0.5, 0.5)):
        store.record_asked([Asked("img-1", 1, "margin", "r0001", 0.5, probs)])
    assert numbers(store.asked_probs(2)) == {"img-1": [0.5, 0.5]}


def test_a_tasks_query_data_is_kept_unless_we_recorded_our_own(
    store: ProjectStore, root: Path
) -> None:
    """The data of a task is rounded, and people can change it."""
    ours = Asked("img-1", 3, "margin", "r0003", 0.5, (0.5, 0.5))
    theirs = Asked("img-1", 9, "typed by hand", "r0009", None, (0.25, 0.75))
    other = Asked("img-2", 1, "random", "", None, (0.75, 0.25))
    store.record_asked([ours])
    store.record_tasks([task(1, asked=theirs), task(2, asked=other)], NOON)
    query = "SELECT image_id, round, strategy, version, confidence FROM own_asked"
    assert rows_of(root, query) == [
        ("img-1", 3, "margin", "r0003", 0.5),
        ("img-2", 1, "random", "", None),
    ]
    assert numbers(store.asked_probs(2)) == {
        "img-1": [0.5, 0.5],
        "img-2": [0.75, 0.25],
    }


def test_new_fold_probabilities_replace_the_previous_ones(store: ProjectStore) -> None:
    store.record_fold_probs(["a", "b"], [np.array([0.5, 0.5])] * 2)
    store.record_fold_probs(["b"], [np.array([0.25, 0.75])])
    assert numbers(store.fold_probs(2)) == {"b": [0.25, 0.75]}
    assert numbers(store.fold_probs(3)) == {"b": [0.25, 0.75, 0.0]}
    assert store.fold_probs(1) == {}


# Reviews


# Validation by annotators


def asked(task_id: int, strategy: str) -> Asked:
    return Asked(f"img-{task_id}", round=1, strategy=strategy, version="r0001")


def test_validation_tasks_are_those_that_were_asked_for_validation_and_still_exist(
    store: ProjectStore,
) -> None:
    store.record_asked([asked(1, "margin"), asked(2, VALIDATION), asked(9, VALIDATION)])
    store.record_tasks(
        [
            task(1, annotation(1)),
            task(2, annotation(2, task_id=2), is_again=True),
            task(3, annotation(3, task_id=3)),  # a seed
            task(4, asked=asked(4, VALIDATION)),  # asked before the database was lost
        ],
        NOON,
    )
    assert store.validation_tasks() == [
        Task(2, "img-2", is_open=False, awaits_second_opinion=True),
        Task(4, "img-4", is_open=True, awaits_second_opinion=False),
    ]
    assert store.validation_annotations() == {2: [annotation(2, task_id=2)]}
    assert store.n_queried() == 3


def test_finding_validation_tasks_reads_only_their_records(store: ProjectStore, root: Path) -> None:
    store.record_asked([asked(n, "margin") for n in range(100)])
    query = "SELECT image_id FROM own_asked WHERE strategy = 'validation'"
    [(*_, step)] = rows_of(root, f"EXPLAIN QUERY PLAN {query}")
    assert "own_asked_validation" in step


def test_the_recent_annotations_are_the_latest_that_people_made_here(store: ProjectStore) -> None:
    given = [
        annotation(1, updated_at="2026-01-01T12:00:03Z"),
        annotation(2, updated_at="2026-01-01T12:00:02Z", annotator=2),
        annotation(3, updated_at="2026-01-01T12:00:01Z", annotator=3),
        annotation(4, updated_at="2026-01-01T12:00:09Z", annotator=4, is_ground_truth=True),
        annotation(5, updated_at="2026-01-01T12:00:09Z", annotator=None),
        annotation(6, updated_at="2026-01-01T12:00:09Z", annotator=DELETED),
        annotation(7, updated_at="2026-01-01T12:00:09Z", annotator=7, seconds=IMPORTED_S),
    ]
    store.record_tasks([task(1, *given)], NOON)
    assert store.recent_annotations(2) == {1: given[:2]}
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    assert store.last_annotated() == {1: noon + 3, 2: noon + 2, 3: noon + 1}
    assert store.annotation_times(9) == [noon + 1, noon + 2, noon + 3, noon + 9]


def test_a_deleted_skip_is_kept_once(store: ProjectStore) -> None:
    for image_id in ("img-1", "img-2", "img-1"):
        store.record_deleted_skip(DeletedSkip(int(image_id[-1]), image_id, 7))
    assert store.deleted_skips() == [DeletedSkip(1, "img-1", 7), DeletedSkip(2, "img-2", 7)]


def test_a_database_of_an_earlier_release_gains_the_new_tables_when_it_is_read(
    store: ProjectStore, root: Path
) -> None:
    with closing(sqlite3.connect(store_of_first_release(root))) as db:
        db.execute("INSERT INTO own_reviewed VALUES ('img', 'cat')")
        db.commit()
    assert store.deleted_skips() == []
    assert store.reviewed() == {"img": "cat"}
    assert rows_of(root, "PRAGMA user_version") == [(len(MIGRATIONS),)]


def store_of_first_release(root: Path) -> Path:
    """Create a database with the first version of the schema."""
    root.mkdir()
    with closing(sqlite3.connect(root / FILE)) as db:
        db.executescript(MIGRATIONS[0])
        db.executescript(FIRST_MIRROR_TABLES)
        db.execute("PRAGMA user_version = 1")
    return root / FILE


def test_tasks_annotations_and_what_was_learned_survive_the_new_columns(
    store: ProjectStore, root: Path
) -> None:
    with closing(sqlite3.connect(store_of_first_release(root))) as db:
        db.execute("INSERT INTO mirror_task VALUES (1, 'img-1', 0, 1, '2026-01-01', 5.0)")
        db.execute(
            "INSERT INTO mirror_annotation VALUES "
            "(4, 1, 'img-1', 7, 'cat', 0, '2026-01-01', 0, 0, NULL, 'cat', 'cat', 5.0)"
        )
        db.execute("INSERT INTO own_fact VALUES ('full_read_at', '5.0')")
        db.commit()
    assert store.tasks() == [Task(1, "img-1", is_open=False, awaits_second_opinion=True)]
    assert [a.label for a in store.annotations()[1]] == ["cat"]
    assert store.new_annotations() == (0, None)
    assert store.facts().full_read_at == 5.0
    assert store.listed_tasks() == []


def test_tasks_without_an_image_id_become_foreign_with_the_new_columns(
    store: ProjectStore, root: Path
) -> None:
    with closing(sqlite3.connect(store_of_first_release(root))) as db:
        for task_id, image_id in ((1, "img-1"), (2, "")):
            values = (task_id, image_id, 1, 0, "2026-01-01", 5.0)
            db.execute("INSERT INTO mirror_task VALUES (?, ?, ?, ?, ?, ?)", values)
        db.commit()
    assert store.foreign_tasks() == {2}
    assert [task.task_id for task in store.tasks()] == [1]


def test_tasks_that_an_earlier_release_has_learned_from_stay_ours_when_they_are_read_again(
    store: ProjectStore, root: Path
) -> None:
    """The data of a task with imported labels does not say that Tightloop created it."""
    with closing(sqlite3.connect(store_of_first_release(root))) as db:
        for task_id, is_open in ((1, False), (2, True)):
            values = (task_id, f"img-{task_id}", is_open, 0, "2026-01-01", 5.0)
            db.execute("INSERT INTO mirror_task VALUES (?, ?, ?, ?, ?, ?)", values)
        db.commit()
    found = (task(1, annotation(5)), task(2))
    store.record_tasks([replace(reading, is_unmarked=True) for reading in found], NOON)
    assert store.foreign_tasks() == {2}
    assert store.label_counts() == {"cat": 1}


# Reviews


def test_reviewed_labels_are_kept_for_their_review_project(
    store: ProjectStore,
) -> None:
    store.start_reviews(9)
    store.record_reviewed("img-1", "cat")
    store.record_reviewed("img-2", "dog")
    store.record_reviewed("img-1", "dog")
    assert store.reviewed() == {"img-1": "dog", "img-2": "dog"}
    store.start_reviews(10)
    assert store.reviewed() == {}
    assert store.facts().review_project == 10


# The dashboard


def shown(number: int) -> OpenImage:
    return OpenImage(
        image_id=f"img-{number}",
        confidence=0.5,
        guesses=(("cat", 0.75), ("dog", 0.25)),
        is_again=False,
        picture="data:,",
    )


def test_the_first_open_images_are_returned_in_order(store: ProjectStore) -> None:
    images = [shown(number) for number in range(OPEN_IMAGES_KEPT + 5)]
    store.record_open_images(NOON, images)
    assert store.open_images() == images[:48]
    assert store.facts().open_read_at == NOON
    store.record_open_images(NOON + 1, [shown(3)])
    assert store.open_images() == [shown(3)]


def test_annotator_figures_are_returned_in_order(store: ProjectStore) -> None:
    ada = AnnotatorFigures(1, "Ada", 12, 3, 0.75, 0.8, 0.55, 0.95, 12, 0.5, 0.25, 4.5)
    bob = AnnotatorFigures(2, "Bob", 0, 0, None, None, None, None, 0, None, None, None)
    store.record_annotators([bob])
    store.record_annotators([ada, bob])
    assert store.annotators() == [ada, bob]


def test_the_last_ten_errors_are_kept_newest_first(store: ProjectStore, root: Path) -> None:
    for number in range(25):
        store.record_error("training", f"error {number}")
    messages = [error.message for error in store.errors()]
    assert messages == [f"error {number}" for number in range(24, 14, -1)]
    assert rows_of(root, "SELECT count(*) FROM own_error") == [(10,)]


def test_an_error_is_recorded_with_step_and_time(store: ProjectStore) -> None:
    store.record_error("training", "the disk is full", datetime(2026, 1, 1, 12, tzinfo=UTC))
    [error] = store.errors()
    assert (error.at, error.where) == ("2026-01-01T12:00:00+00:00", "training")
    assert error.message == "the disk is full"
    store.record_error("training", "again")
    at = datetime.fromisoformat(store.errors()[0].at)
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60


def over(store: ProjectStore) -> dict[str, bool]:
    return {error.message: error.is_over for error in store.errors()}


def test_an_error_is_over_once_its_own_step_has_succeeded(store: ProjectStore) -> None:
    store.record_error("querying images", "first", step="top_up")
    store.record_error("exporting labels", "other", step="export")
    assert over(store) == {"first": False, "other": False}
    store.record_success("top_up")
    store.record_error("querying images", "again", step="top_up")
    assert over(store) == {"first": True, "other": False, "again": False}
    store.record_error("training", "of an earlier release")
    assert over(store)["of an earlier release"]


def test_a_reading_by_any_process_ends_the_errors_of_reading(store: ProjectStore) -> None:
    """The clock reads every minute; a job reads again only after another webhook."""
    store.record_failure("read", NOON)
    store.record_error("reading annotations", "no answer", step="read")
    store.record_reading(NOON + 60, is_full=False)
    assert over(store) == {"no answer": True}
    assert store.facts().failed_at == {}


def test_a_training_run_ends_the_errors_of_training_and_of_heads(store: ProjectStore) -> None:
    for step in ("retrain", "refit", "top_up"):
        store.record_failure(step, NOON)
        store.record_error(step, step, step=step)
    store.record_learned({}, NOON + 1)
    assert over(store) == {"retrain": True, "refit": True, "top_up": False}
    assert store.facts().failed_at == {"top_up": NOON}


def test_errors_that_an_earlier_release_kept_are_over(root: Path, store: ProjectStore) -> None:
    root.mkdir(exist_ok=True)
    with closing(sqlite3.connect(root / FILE, isolation_level=None)) as db:
        for script in MIGRATIONS[:4]:
            db.executescript(script)
        db.execute("INSERT INTO own_error VALUES ('2026-01-01T12:00:00+00:00', 'training', 'old')")
        db.execute("PRAGMA user_version = 4")
    store.record_error("training", "new", step="retrain")
    assert over(store) == {"old": True, "new": False}


# Copies


def test_a_copy_of_a_database_in_use_holds_the_last_write(
    store: ProjectStore, root: Path, tmp_path: Path
) -> None:
    store.record_reviewed("img-1", "cat")
    with closing(connect(root)) as keeper:  # keeps the last write in the log beside the file
        keeper.execute("INSERT INTO own_reviewed VALUES ('img-2', 'dog')")
        made = copy(root, tmp_path)
    assert made == tmp_path / FILE
    assert ProjectStore(tmp_path).reviewed() == {"img-1": "cat", "img-2": "dog"}


def drop_mirror_tables(root: Path) -> None:
    with closing(sqlite3.connect(root / FILE)) as db:
        for table in ("mirror_task", "mirror_annotation", "mirror_open"):
            db.execute(f"DROP TABLE {table}")


@pytest.mark.parametrize("use", ["read", "write"])
def test_dropped_mirror_tables_are_created_again_and_all_tasks_are_due_to_be_read(
    store: ProjectStore, root: Path, use: str
) -> None:
    rows = [task(1, annotation(1, task_id=1))]
    store.record_tasks(rows, NOON)
    store.record_reading(NOON, is_full=True)
    store.record_reviewed("img", "cat")
    revision = store.facts().revision
    drop_mirror_tables(root)
    if use == "read":
        assert store.counts() == ProjectCounts(0, 0, 0, 0)
    store.record_tasks(rows, NOON + 1)
    assert store.n_tasks() == 1
    facts = store.facts()
    assert (facts.read_at, facts.full_read_at) == (0, 0)
    assert facts.revision > revision
    assert store.reviewed() == {"img": "cat"}
    with reading(root) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    assert {"mirror_task_open", "mirror_annotation_new"} <= names
