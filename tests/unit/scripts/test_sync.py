"""Ask more images with scripts.sync, with the digits and an oracle instead of Label Studio."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from backend.base.labeling import NewTask, TaskReading
from backend.base.settings import Settings
from backend.queue.training_queue import TrainingQueue
from backend.rounds.loop import Loop
from backend.store.project_record import project_root, write_record
from scripts import sync
from scripts.research.oracle import OracleProject
from scripts.research.simulation import make_loop, pool_of
from tests.conftest import RedisServer
from tests.unit.scripts.research.test_simulation import plan, run
from tests.unit.store.test_registry import record

COUNT = 3


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    pool, _ = pool_of(plan(), tmp_path)
    return make_loop(run(tmp_path, tmp_path, "margin"), pool, OracleProject(pool.classes))


@pytest.fixture
def command(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Ask COUNT images; return the printed output."""
    monkeypatch.setattr(sync, "open_chosen", lambda *_, **__: (loop.project, loop))

    def ask(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["sync", "--count", str(COUNT), *arguments])
        assert sync.main() == 0
        printed = capsys.readouterr()
        return printed.out, printed.err

    return ask


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_json_names_the_images_that_are_or_would_be_asked(
    arguments: tuple[str, ...], command: Callable[..., tuple[str, str]], loop: Loop
) -> None:
    is_dry_run = bool(arguments)
    printed, notes = command("--json", *arguments)
    report = json.loads(printed)
    images = report.pop("images")
    assert report == {
        "is_dry_run": is_dry_run,
        "strategy": "random",  # margins need a model
        "version": None,
        "count": COUNT,
    }
    asked = {task.image_id for task in loop.project.tasks()}
    assert asked == (set() if is_dry_run else {image["image_id"] for image in images})
    assert [set(image) for image in images] == [{"image_id", "confidence"}] * COUNT
    assert notes == ""


def test_a_dry_run_lists_the_images_that_the_next_run_asks(
    command: Callable[..., tuple[str, str]],
) -> None:
    before, after = (json.loads(command("--json", *d)[0]) for d in (["--dry-run"], []))
    assert before["images"] == after["images"]


def test_an_image_that_a_person_has_added_is_not_asked_again(
    command: Callable[..., tuple[str, str]], loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = json.loads(command("--json", "--dry-run")[0])["images"][0]["image_id"]
    whole = loop.project.read_tasks

    def read_tasks(changed_after: datetime | None = None) -> Iterator[TaskReading]:
        return (replace(found, is_unmarked=True) for found in whole(changed_after))

    loop.project.import_tasks([NewTask(first, {})])
    monkeypatch.setattr(loop.project, "read_tasks", read_tasks)
    command()
    asked = Counter(task.image_id for task in loop.project.tasks())
    assert asked[first] == 1


def test_without_json_it_prints_one_sentence(command: Callable[..., tuple[str, str]]) -> None:
    printed, _ = command()
    assert printed.startswith("asked 3 images (random, no model yet), confidence ")
    assert len(printed.splitlines()) == 1


def test_rescan_has_new_images_looked_for_and_asks_none(
    loop: Loop,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., tuple[str, str]],
) -> None:
    settings = Settings.model_construct(
        model_dir=loop.root.parent, redis_url=SecretStr(redis_server.url)
    )
    monkeypatch.setattr(sync, "load_settings", lambda: settings)
    write_record(project_root(loop.root.parent, 7), record(7).model_copy(update={"pool": "/birds"}))
    assert command("--rescan")[0].startswith("the trainer looks for new images")
    assert TrainingQueue(redis_server.url).hints(7).rescan_asked_at > 0
    assert loop.project.tasks() == []
