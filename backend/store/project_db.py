"""Open a project's database; create or migrate it first if necessary.

Tables named `mirror_*` copy Label Studio's data and may be emptied or dropped at any time. Tables
named `own_*` contain data that exists nowhere else. To read while another process is writing,
SQLite needs its WAL mode, which works only on local disks. On a read-only mount, the database can
be opened only if another process has it open for writing (as the clock does) or if no process has
it open.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from backend.base.errors import StoreError
from backend.store import earlier_release

FILE = "project.db"
N_MIRROR_TABLES = 3
Connection = sqlite3.Connection
BUSY_TIMEOUT_S = 30.0

# One script for each version of the schema of the `own_*` tables; `user_version` counts the scripts
# that have run.
# Never change a released script; add another instead.
MIGRATIONS = (
    """
    CREATE TABLE own_asked (
        image_id TEXT PRIMARY KEY,
        round INTEGER NOT NULL,
        strategy TEXT NOT NULL,
        version TEXT NOT NULL,
        confidence REAL,
        probs BLOB NOT NULL         -- float32, (classes,); empty = asked without a model
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE own_fold (         -- out-of-sample probabilities of images asked without a model
        image_id TEXT PRIMARY KEY,
        probs BLOB NOT NULL
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE own_reviewed (     -- labels that a review made ground truth
        image_id TEXT PRIMARY KEY,
        label TEXT NOT NULL
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE own_annotator (    -- how each person did when labels were last learned from
        place INTEGER PRIMARY KEY,
        figures TEXT NOT NULL       -- AnnotatorFigures as JSON
    ) STRICT;
    CREATE TABLE own_error (
        at TEXT NOT NULL,
        "where" TEXT NOT NULL,
        message TEXT NOT NULL
    ) STRICT;
    CREATE TABLE own_fact (         -- single facts by name, as JSON: see project_store.py
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID, STRICT;
    """,
    """
    CREATE TABLE own_skip (         -- skips deleted in Label Studio to serve their image once more
        annotation_id INTEGER PRIMARY KEY,
        image_id TEXT NOT NULL,
        annotator INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX own_asked_validation ON own_asked (image_id) WHERE strategy = 'validation';
    """,
    """
    CREATE TABLE IF NOT EXISTS mirror_task (    -- as the first two versions of the schema had it
        task_id INTEGER PRIMARY KEY,
        image_id TEXT NOT NULL,
        is_open INTEGER NOT NULL,
        is_again INTEGER NOT NULL,
        updated_at TEXT NOT NULL,
        read_at REAL NOT NULL
    ) STRICT;
    ALTER TABLE mirror_task ADD COLUMN address TEXT;
    DROP INDEX IF EXISTS mirror_task_open;
    """,
    """
    CREATE TABLE own_finish_try (   -- attempts to have the model label the rest of the images
        number INTEGER PRIMARY KEY, -- from 1
        started_at REAL NOT NULL,   -- seconds since the epoch
        version TEXT NOT NULL,
        max_error REAL NOT NULL,
        share REAL NOT NULL,        -- of all tries' risk that a promise is broken
        threshold REAL NOT NULL,
        n_images INTEGER NOT NULL,
        n_sample INTEGER NOT NULL,
        allowed_errors INTEGER NOT NULL,
        n_unlabeled INTEGER NOT NULL,
        state TEXT NOT NULL,
        n_errors INTEGER NOT NULL,
        ended_at REAL,              -- NULL = not yet
        n_decided INTEGER NOT NULL  -- sampled images that people had judged when it ended
    ) STRICT;
    CREATE TABLE own_finish_image ( -- the images of a try, with the model's labels when it began
        try INTEGER NOT NULL,
        image_id TEXT NOT NULL,
        label TEXT NOT NULL,
        confidence REAL NOT NULL,
        place INTEGER,              -- in the acceptance sample, in random order; NULL = not in it
        is_lost INTEGER NOT NULL,   -- 1 = a sampled image that can no longer be labeled
        PRIMARY KEY (try, image_id)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX own_finish_sample ON own_finish_image (try, place) WHERE place IS NOT NULL;
    """,
    """
    -- the step that failed; '' once it has succeeded
    ALTER TABLE own_error ADD COLUMN failing_step TEXT NOT NULL DEFAULT '';
    """,
    """
    CREATE TABLE own_adopted (      -- the pool's images in tasks that do not say who created them
        image_id TEXT PRIMARY KEY
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE IF NOT EXISTS mirror_task (    -- as the third version of the schema had it
        task_id INTEGER PRIMARY KEY, image_id TEXT NOT NULL, is_open INTEGER NOT NULL,
        is_again INTEGER NOT NULL, updated_at TEXT NOT NULL, read_at REAL NOT NULL, address TEXT
    ) STRICT;
    DROP VIEW IF EXISTS mirror_queried;
    ALTER TABLE mirror_task ADD COLUMN is_foreign INTEGER NOT NULL DEFAULT 0;
    UPDATE mirror_task SET is_foreign = 1 WHERE image_id = '';
    -- Until now, every annotated image counted, for example one with imported labels.
    INSERT INTO own_adopted SELECT DISTINCT image_id FROM mirror_task WHERE image_id != ''
        AND NOT is_open AND address IS NULL AND image_id NOT IN (SELECT image_id FROM own_asked);
    """,
    """
    CREATE TABLE own_outcome (      -- what became of each annotation when it had this answer
        annotation_id INTEGER PRIMARY KEY, answer TEXT NOT NULL, outcome TEXT NOT NULL
    ) STRICT;
    """,
)
MIRROR_TABLES = """
    CREATE TABLE IF NOT EXISTS mirror_task (
        task_id INTEGER PRIMARY KEY,
        image_id TEXT NOT NULL,
        is_open INTEGER NOT NULL,
        is_again INTEGER NOT NULL,
        updated_at TEXT NOT NULL,   -- by Label Studio's clock, ISO 8601
        read_at REAL NOT NULL,      -- by our clock, seconds since the epoch
        address TEXT,               -- of the image, '' = none; NULL = a task in our own project
        is_foreign INTEGER NOT NULL -- 1 = people created it in our own project
    ) STRICT;
    CREATE INDEX IF NOT EXISTS mirror_task_image ON mirror_task (image_id);
    CREATE INDEX IF NOT EXISTS mirror_task_open ON mirror_task (image_id) WHERE is_open;
    CREATE INDEX IF NOT EXISTS mirror_task_foreign ON mirror_task (task_id) WHERE is_foreign;
    -- The tasks of an attached project exist from the beginning. A task counts as queried if
    -- Tightloop has asked people to label it, or if people have annotated or skipped it. In a
    -- project that we created, these are our tasks, except open copies of other tasks.
    CREATE VIEW IF NOT EXISTS mirror_queried AS SELECT * FROM mirror_task AS task
        WHERE NOT is_foreign AND CASE
        WHEN NOT is_open THEN 1
        WHEN image_id GLOB 'ls-*' THEN image_id IN (SELECT image_id FROM own_asked)
        ELSE NOT EXISTS (
            SELECT 1 FROM mirror_task AS other WHERE other.image_id = task.image_id
            AND NOT (other.is_open AND other.task_id >= task.task_id)
        ) END;
    CREATE TABLE IF NOT EXISTS mirror_annotation (
        annotation_id INTEGER PRIMARY KEY,
        task_id INTEGER NOT NULL,
        image_id TEXT NOT NULL,
        annotator INTEGER,          -- NULL = the data set
        label TEXT,
        was_skipped INTEGER NOT NULL,
        updated_at TEXT NOT NULL,
        is_ground_truth INTEGER NOT NULL,
        took_guess INTEGER NOT NULL,
        seconds REAL,
        answer TEXT,                -- NULL = deleted since it was learned
        learned TEXT,               -- the answer that the last training learned; NULL = none
        changed_at REAL NOT NULL    -- when the answer was first seen to differ
    ) STRICT;
    CREATE INDEX IF NOT EXISTS mirror_annotation_task ON mirror_annotation (task_id);
    CREATE INDEX IF NOT EXISTS mirror_annotation_time ON mirror_annotation (updated_at);
    CREATE INDEX IF NOT EXISTS mirror_annotation_new ON mirror_annotation (changed_at)
        WHERE answer IS NOT learned;
    CREATE TABLE IF NOT EXISTS mirror_open ( -- the open images as last ordered, for people to see
        place INTEGER PRIMARY KEY,
        image TEXT NOT NULL         -- OpenImage as JSON
    ) STRICT;
"""

# Problem and remedy, by a pattern for SQLite's error message
ADVICE = {
    "unable to open|readonly": (
        "cannot be opened ({}): if this process may only read, it must wait for the clock; "
        "otherwise check MODEL_DIR and its permissions"
    ),
    "malformed|not a database|a row cannot": (
        "is damaged ({}): restore a backup, or move it away; it is then rebuilt from Label Studio, "
        "without the reviews"
    ),
    "": "cannot be used ({}): check MODEL_DIR, its permissions and the free space",
}


@contextmanager
def reading(root: Path) -> Iterator[Connection]:
    """Open a project's database for reading, or an empty one in memory if none exists yet.

    Raises StoreError if it cannot be opened, for example on a read-only mount.
    """
    with _store_errors(root / FILE), closing(_open_for_reading(root / FILE)) as db:
        if _version(db) and _is_outdated(db):
            connect(root).close()
        yield db


@contextmanager
def writing(root: Path) -> Iterator[Connection]:
    """Open a project's database for one transaction; create or migrate it if necessary."""
    with closing(connect(root)) as db, _store_errors(root / FILE), db:
        db.execute("BEGIN IMMEDIATE")
        yield db


def select(root: Path, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return all rows that one query finds."""
    with reading(root) as db:
        return db.execute(query, parameters).fetchall()


def connect(root: Path) -> Connection:
    """Open a project's database for writing; the caller closes it.

    A connection must not cross a fork.
    """
    path = root / FILE
    with _store_errors(path):
        root.mkdir(parents=True, exist_ok=True)
        return _connect(path, "mode=rwc")


def copy(root: Path, folder: Path) -> Path:
    """Copy a project's database into a folder while it is in use; return the copy's path."""
    made = folder / FILE
    with reading(root) as db, closing(sqlite3.connect(made)) as target:
        if _version(db):
            db.backup(target)
    return made


def _connect(path: Path, mode: str) -> Connection:
    uri = f"{path.absolute().as_uri()}?{mode}"
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last second
        if _version(db) > len(MIGRATIONS):
            raise StoreError(
                f"{path} was made by a newer release of Tightloop: update Tightloop, or restore a "
                "backup of this release"
            )
        if mode == "mode=rwc" and _is_outdated(db):
            _migrate(db, path.parent)
    except BaseException:
        db.close()
        raise
    return db


def _open_for_reading(path: Path) -> Connection:
    if path.exists():
        db = _connect_for_reading(path)
        if _version(db):
            return db
        db.close()
    empty = sqlite3.connect(":memory:")
    _create_tables(empty)
    return empty


def _connect_for_reading(path: Path) -> Connection:
    try:
        return _connect(path, "mode=ro")
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists():
            raise
    # No process has the database open, and this process is not allowed to create the log that
    # SQLite needs. Since no process is writing to the file, it can be read without a log.
    return _connect(path, "mode=ro&immutable=1")


def _migrate(db: Connection, root: Path) -> None:
    _switch_to_wal(db)
    with db:
        db.execute("BEGIN IMMEDIATE")  # another process may be migrating it
        is_new = not _version(db)
        _create_tables(db)
        if is_new:
            earlier_release.take_over(db, root)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    earlier_release.move_files(root)


def _create_tables(db: Connection) -> None:
    """Create missing tables; if a mirror table was missing, request a full reading."""
    lacked_mirror_tables = _lacks_mirror_tables(db)
    for script in (*MIGRATIONS[_version(db) :], MIRROR_TABLES):
        for statement in script.split(";\n"):
            db.execute(statement)
    if lacked_mirror_tables:
        db.execute("DELETE FROM own_fact WHERE name IN ('read_at', 'full_read_at')")


def _is_outdated(db: Connection) -> bool:
    return _version(db) < len(MIGRATIONS) or _lacks_mirror_tables(db)


def _lacks_mirror_tables(db: Connection) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name GLOB 'mirror_*'"
    return bool(db.execute(query).fetchone()[0] < N_MIRROR_TABLES)


def _switch_to_wal(db: Connection) -> None:
    # If another process is creating the same database, SQLite fails here instead of waiting.
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def _version(db: Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Turn errors that a user can fix into StoreErrors."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a bug in this code
    except (sqlite3.DatabaseError, OSError, ValueError) as error:
        reason = (
            "a row cannot be read"  # it is not JSON or has invalid fields
            if isinstance(error, ValueError)
            else str(getattr(error, "strerror", None) or error)
        )
        advice = next(text for pattern, text in ADVICE.items() if re.search(pattern, reason))
        raise StoreError(f"{path} {advice.format(reason)}") from error
