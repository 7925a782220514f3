"""Count and measure keys, files and tables by kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from backend.store.project_store import ProjectStore
from scripts.research.footprint import (
    folder_kb,
    kind_of_file,
    kind_of_key,
    memory,
    model_folder,
    redis_figures,
    store_rows,
)
from scripts.research.long_run import table
from tests.conftest import RedisServer


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("tightloop:p12:hints", "tightloop:pN:hints"),
        ("rq:job:retrain-p1", "rq:job:retrain-pN"),
        ("rq:worker:e227f8c270bf486b8248dc93212aa778", "rq:worker:*"),
        ("rq:results:0a1b2c3d-0000-4000-8000-123456789abc", "rq:results:*"),
    ],
)
def test_keys_that_differ_only_in_an_id_are_of_one_kind(key: str, kind: str) -> None:
    assert kind_of_key(key) == kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("r0007/model.safetensors", "full versions: model.safetensors"),
        ("r0007h02/model.safetensors", "heads: model.safetensors"),
        ("a0001/model.safetensors", "adapted bodies: model.safetensors"),
        ("embeddings/0123.safetensors", "embeddings/"),
        ("project.db", "project.db"),
    ],
)
def test_files_of_all_versions_of_a_kind_are_of_one_kind(path: str, kind: str) -> None:
    assert kind_of_file(Path(path)) == kind


def test_the_files_of_a_kind_are_added_up(tmp_path: Path) -> None:
    for version, n_bytes in (("r0001", 1000), ("r0002", 3000)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "meta.json").write_bytes(b"x" * n_bytes)
    assert model_folder(tmp_path) == (
        {"full versions: meta.json": 4.0},
        {"full versions: meta.json": 2},
    )
    assert folder_kb(tmp_path) == 4.0


def test_every_table_of_the_project_is_counted(tmp_path: Path) -> None:
    ProjectStore(tmp_path).record_error("training", "the first")
    ProjectStore(tmp_path).record_error("training", "the second")
    rows = store_rows(tmp_path)
    assert rows["own_error"] == 2
    assert rows["mirror_task"] == 0


def test_the_keys_in_redis_are_counted_by_kind(redis_server: RedisServer) -> None:
    with Redis.from_url(redis_server.url) as connection:
        connection.mset({"tightloop:p1:hints": 1, "tightloop:p2:hints": 1, "rq:workers": 1})
    figures = redis_figures(redis_server.url)
    assert figures.pop("used memory, kB") > 0
    assert figures == {"keys rq:workers": 1, "keys tightloop:pN:hints": 2}


def test_memory_counts_what_a_program_fills() -> None:
    n_mb = 200
    code = f"import time; kept = b'x' * {n_mb * 1024**2}; print(); time.sleep(600)"
    programs = [
        subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
        for text in (code, code.replace("b'x'", "0 and b'x'"))
    ]
    try:
        for program in programs:
            assert program.stdout is not None
            program.stdout.readline()
        large, small = (memory({"supervisord": program.pid})["together"] for program in programs)
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    assert large - small == pytest.approx(n_mb, rel=0.1)


def test_the_table_shows_0_for_what_was_missing_in_an_earlier_round() -> None:
    measured = {1: {"Redis": {"keys a": 2.0}}, 2: {"Redis": {"keys a": 2.0, "keys b": 1.0}}}
    assert [line.split() for line in table(measured, [1, 2])] == [
        ["after", "round", "1", "2"],
        [],
        ["Redis"],
        ["keys", "a", "2", "2"],
        ["keys", "b", "0", "1"],
    ]
