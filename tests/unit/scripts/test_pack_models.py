"""Pack the model folder for a backup while the folder is in use."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backend.base.labeling import Asked
from backend.store.adaptation_checkpoint import CheckpointMeta, save_checkpoint
from backend.store.bodies import Bodies
from backend.store.files import lock
from backend.store.project_db import connect, reading, writing
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from scripts.pack_models import pack
from tests.unit.store.test_bodies import save_body
from tests.unit.store.test_registry import meta, record, save

ROOT = Path(__file__).parents[3]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Create two projects, one of them not trained yet, with a cache, drafts and locks."""
    folder = tmp_path / "models"
    root = project_root(folder, 7)
    for number in (7, 12):
        write_record(project_root(folder, number), record(number))
    save(root, meta(1))
    save(root, meta(1, version="r0001h01"))
    Registry(root).promote("r0001h01")
    save_body(root)
    Bodies(root).set_start("a0001", by="loop")
    save_checkpoint(root, {}, CheckpointMeta(fingerprint="f", spent_s=1.0, began_at=1.0))
    drafts = (
        ".current.draft-99", "r0001/pool.safetensors.draft-99", ".draft-r0002-99/model.safetensors",
        ".draft-a0002-99/model.safetensors",
    )  # fmt: skip
    caches = "embeddings/0123-32px.safetensors", "embeddings/4567.draft-99", "exports/labels.csv"
    for name in (*drafts, *caches):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    with lock(root, "train"):
        pass
    (root / "earlier-release").mkdir()
    (root / "earlier-release/seen.json").write_text("{}")
    return folder


def unpack(archive: Path, folder: Path) -> set[str]:
    """Unpack an archive as a restore does; return the paths of the files."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


PACKED = {
    "p7/project.json", "p7/project.db", "p7/current", "p7/train.lock",
    "p7/r0001/meta.json", "p7/r0001/model.safetensors",
    "p7/r0001h01/meta.json", "p7/r0001h01/model.safetensors",
    "p7/a0001/meta.json", "p7/a0001/model.safetensors", "p7/start",
    "p7/earlier-release/seen.json", "p12/project.json",
}  # fmt: skip


def pack_here(models: Path, archive: Path) -> None:
    with archive.open("wb") as out, tarfile.open(fileobj=out, mode="w|") as tar:
        pack(models, tar)


def pack_by_command(models: Path, archive: Path) -> None:
    """Pack as a backup does, in a separate process."""
    with archive.open("wb") as out:
        subprocess.run(
            [sys.executable, "-m", "scripts.pack_models"],
            cwd=ROOT, env={**os.environ, "MODEL_DIR": str(models)}, stdout=out, check=True,
        )  # fmt: skip


@pytest.mark.parametrize("pack_it", [pack_here, pack_by_command])
def test_models_are_packed_while_a_process_is_in_the_middle_of_a_transaction(
    models: Path, tmp_path: Path, pack_it: Callable[[Path, Path], None]
) -> None:
    root, archive = project_root(models, 7), tmp_path / "models.tar"
    with closing(connect(root)):  # as the clock does; commits stay in the -wal file
        store = ProjectStore(root)
        store.record_asked([Asked("img-1", 1, "margin", "r0001", 0.5, (0.5, 0.5))])
        store.record_reviewed("img-1", "cat")
        store.record_reviewed("img-2", "cat")
        with writing(root) as db:
            db.execute("UPDATE own_reviewed SET label = 'dog'")
            db.execute("DELETE FROM own_asked")
            # Write so much that SQLite puts some of it on the disk before the commit.
            rows = ((f"uncommitted-{n}", "x" * 1000) for n in range(10_000))
            before = (root / "project.db-wal").stat().st_size
            db.executemany("INSERT INTO own_reviewed VALUES (?, ?)", rows)
            assert (root / "project.db-wal").stat().st_size > before + 1_000_000
            pack_it(models, archive)
    assert unpack(archive, tmp_path / "restored") == PACKED

    restored = project_root(tmp_path / "restored", 7)
    assert not (restored / "embeddings").exists()
    assert not list(restored.rglob("*draft*"))
    with closing(sqlite3.connect(restored / "project.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert ProjectStore(restored).reviewed() == {"img-1": "cat", "img-2": "cat"}
    with reading(restored) as kept:
        assert kept is not None
        query = "SELECT image_id, round, strategy, version, confidence FROM own_asked"
        assert kept.execute(query).fetchall() == [("img-1", 1, "margin", "r0001", 0.5)]
    current = Registry(restored).current()
    assert current is not None
    assert current.version == "r0001h01"
    assert [found.version for found in Registry(restored).versions()[0]] == ["r0001", "r0001h01"]
    assert Registry(restored).versions()[1] == {}
    assert Bodies(restored).usable_start().name == "a0001"
    assert Bodies(restored).all() == Bodies(root).all()
    # The transaction was committed here only after the archive was made.
    assert ProjectStore(root).reviewed()["img-1"] == "dog"


def test_packing_changes_nothing(models: Path, tmp_path: Path) -> None:
    root = project_root(models, 7)
    with closing(connect(root)):
        ProjectStore(root).record_reviewed("img-1", "cat")
        before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
        pack_here(models, tmp_path / "models.tar")
        after = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    shared = root / "project.db-shm"  # SQLite records its readers there
    assert after | {shared: b""} == before | {shared: b""}


def test_a_restored_database_can_be_written_to(models: Path, tmp_path: Path) -> None:
    ProjectStore(project_root(models, 7)).record_reviewed("img-1", "cat")
    pack_here(models, tmp_path / "models.tar")
    unpack(tmp_path / "models.tar", tmp_path / "restored")
    store = ProjectStore(project_root(tmp_path / "restored", 7))
    store.record_reviewed("img-2", "dog")
    assert store.reviewed() == {"img-1": "cat", "img-2": "dog"}


def test_a_damaged_database_is_packed_unchanged_and_named(models: Path, tmp_path: Path) -> None:
    damaged = b"x" * 5000
    (models / "p7/project.db").write_bytes(damaged)
    with (tmp_path / "models.tar").open("wb") as out:
        packed = subprocess.run(
            [sys.executable, "-m", "scripts.pack_models"],
            cwd=ROOT, env={**os.environ, "MODEL_DIR": str(models)}, stdout=out,
            stderr=subprocess.PIPE, check=True,
        )  # fmt: skip
    [line] = packed.stderr.decode().splitlines()
    assert line.startswith("packed unchanged: ")
    assert "p7/project.db is damaged" in line
    assert unpack(tmp_path / "models.tar", tmp_path / "restored") == PACKED
    assert (tmp_path / "restored/p7/project.db").read_bytes() == damaged


@pytest.mark.parametrize("gone", ["r0001h01", ".draft-r0002-99"])
def test_a_folder_that_disappears_while_it_is_packed_is_left_out(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """An old head is deleted, or a draft is renamed."""
    folder, scandir = project_root(models, 7) / gone, os.scandir

    def scan_late(path: Any) -> Any:
        if not isinstance(path, int) and Path(path) == folder:
            shutil.rmtree(folder)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan_late)
    pack_here(models, tmp_path / "models.tar")
    monkeypatch.undo()
    packed = unpack(tmp_path / "models.tar", tmp_path / "restored")
    expected = {name for name in PACKED if gone not in name} - {"p7/project.db"}
    assert packed == expected
