"""Import the JSON files in which earlier releases stored a project.

Model versions and their metadata are left unchanged. Annotations are read from Label Studio again.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from backend.store.project_record import ProjectId
from backend.store.project_rows import AnnotatorFigures, OpenImage
from backend.store.version_meta import Probability

log = logging.getLogger(__name__)

FILES = ("answers", "seen", "open", "annotators", "folds", "review")
MOVED_TO = "earlier-release"

_SEEN = TypeAdapter(dict[Annotated[int, Field(gt=0, lt=2**63)], str])  # SQLite's range
_FOLDS = TypeAdapter(dict[str, list[Probability]])
_PEOPLE = TypeAdapter(list[AnnotatorFigures])


class _Review(BaseModel):
    project_id: ProjectId
    collected: dict[str, str] = {}


class _OpenImages(BaseModel):
    read_at: Annotated[
        AwareDatetime,
        Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC)),
    ]
    images: tuple[OpenImage, ...]


def take_over(db: sqlite3.Connection, root: Path) -> None:
    """Import the JSON files found next to a new database; log and skip damaged files."""
    for name, write in (
        ("seen", _write_seen),
        ("folds", _write_folds),
        ("annotators", _write_annotators),
        ("open", _write_open),
        ("review", _write_review),
    ):
        path = root / f"{name}.json"
        if path.exists():
            try:
                write(db, path.read_bytes())
            except (OSError, ValidationError) as error:
                log.warning("%s was not imported: %s", path, type(error).__name__)


def move_files(root: Path) -> None:
    """Move the imported files to a subfolder."""
    for name in FILES:
        if (path := root / f"{name}.json").exists():
            (root / MOVED_TO).mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another process has moved it
                path.replace(root / MOVED_TO / path.name)


def _write_seen(db: sqlite3.Connection, content: bytes) -> None:
    # The first reading of Label Studio adds the annotations themselves.
    rows = _SEEN.validate_json(content).items()
    db.executemany(
        "INSERT INTO mirror_annotation VALUES "
        "(?, 0, '', NULL, NULL, 0, '', 0, 0, NULL, NULL, ?, 0)",
        rows,
    )


def _write_folds(db: sqlite3.Connection, content: bytes) -> None:
    rows = [
        (image_id, np.array(probs, np.float32).tobytes())
        for image_id, probs in _FOLDS.validate_json(content).items()
    ]
    db.executemany("INSERT INTO own_fold VALUES (?, ?)", rows)


def _write_annotators(db: sqlite3.Connection, content: bytes) -> None:
    rows = enumerate(json.dumps(asdict(person)) for person in _PEOPLE.validate_json(content))
    db.executemany("INSERT INTO own_annotator VALUES (?, ?)", rows)


def _write_open(db: sqlite3.Connection, content: bytes) -> None:
    kept = _OpenImages.model_validate_json(content)
    rows = enumerate(image.model_dump_json() for image in kept.images)
    db.executemany("INSERT INTO mirror_open VALUES (?, ?)", rows)
    _write_fact(db, "open_read_at", kept.read_at.timestamp())


def _write_review(db: sqlite3.Connection, content: bytes) -> None:
    review = _Review.model_validate_json(content)
    db.executemany("INSERT INTO own_reviewed VALUES (?, ?)", review.collected.items())
    _write_fact(db, "review_project", review.project_id)


def _write_fact(db: sqlite3.Connection, name: str, value: Any) -> None:
    db.execute("INSERT INTO own_fact VALUES (?, ?)", (name, json.dumps(value)))
