"""Print the state of every project for the person at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.store.annotation_outcomes import AnnotationOutcomes
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from scripts import status
from tests.conftest import RedisServer
from tests.unit.store.test_registry import record
from tests.unit.web.test_status import keep_reading

PROJECT = 7


@pytest.fixture
def store(tmp_path: Path) -> ProjectStore:
    root = project_root(tmp_path, PROJECT)
    write_record(root, record(PROJECT))
    return ProjectStore(root)


@pytest.fixture
def printed(
    tmp_path: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[], str]:
    """Return what `scripts.status` prints."""
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setattr(sys, "argv", ["status"])

    def run() -> str:
        assert status.main() == 0
        return capsys.readouterr().out

    return run


def test_the_last_error_is_printed_until_its_job_succeeds(
    store: ProjectStore, printed: Callable[[], str]
) -> None:
    store.record_error("exporting labels", "the disk is full", step="export")
    store.record_error("training", "no answer", step="retrain")
    assert "training): no answer" in printed()
    store.record_success("retrain")
    assert "exporting labels): the disk is full" in printed()
    store.record_success("export")
    assert "last error" not in printed()


def test_a_project_that_is_gone_is_named_once_with_what_to_do(
    store: ProjectStore, printed: Callable[[], str]
) -> None:
    assert "/projects/7/" in printed()
    store.record(gone="it is gone: run --forget 7", order_problem="the order was changed")
    lines = printed().splitlines()
    assert lines[0].endswith("; the project is gone from Label Studio.")
    assert lines[1] == "  note: it is gone: run --forget 7"
    assert "the order was changed" not in "".join(lines)
    assert "/projects/7/" not in "".join(lines)


@pytest.mark.usefixtures("store")
def test_annotations_that_were_not_learned_are_explained(
    printed: Callable[[], str], tmp_path: Path
) -> None:
    keep_reading(project_root(tmp_path, PROJECT), annotations=5, skipped=2)
    assert "annotations," not in printed()
    outcomes = {0: ("cat", "learned"), 1: ("cat", "removed class"), 2: ("cat", "removed class")}
    AnnotationOutcomes(project_root(tmp_path, PROJECT)).record(outcomes)
    assert "  5 annotations, 1 learned: 2 of a removed class, 2 new\n" in printed()


def test_how_far_the_body_is_adapted_is_printed_unless_it_is_off(
    store: ProjectStore, printed: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.record(pool_images=1797)
    assert "  The body is not adapted to the pool: ADAPT=auto needs 5,000 images" in printed()
    monkeypatch.setenv("ADAPT", "off")
    assert "The body is" not in printed()
