"""List adapted bodies, choose the start of the next training run by hand, and adapt again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backend.base.errors import ModelFolderError, SettingsError
from backend.queue.training_queue import TrainingQueue
from backend.rounds.adapting_rule import must_adapt, retry_at
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from scripts import models
from tests.conftest import RedisServer
from tests.unit.store.test_bodies import save_body
from tests.unit.store.test_registry import record

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

Command = Callable[..., list[str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = project_root(tmp_path, 7)
    write_record(root, record(7))
    return root


@pytest.fixture
def command(
    root: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Return a function that runs the command and returns the lines that it prints."""
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("MODEL_DIR", str(root.parent))
    monkeypatch.setenv("REDIS_URL", redis_server.url)

    def run(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["models", *arguments])
        assert models.main() == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_bodies_are_listed_with_their_accuracy_and_the_next_start(
    root: Path, command: Command
) -> None:
    assert command("bodies") == ["no adapted body yet: see ADAPT in docs/settings.md"]
    save_body(root, 1, made_from="/host/resnet18.pth")
    save_body(root, 2, comparison=None)
    save_body(root, 3, refused="significantly worse")
    save_body(root, 4)
    Bodies(root).mark_pruned("a0001", NOON)
    Bodies(root).set_start("a0002", by="loop", now=NOON)
    (root / "a0004/meta.json").unlink()
    assert command("bodies") == [
        "body     made from        images  minutes        accuracy",
        "a0001    resnet18.pth      6,000       30  40.0% -> 50.0%  pruned",
        "a0002    imagenet          6,000       30    not compared  next start",
        "a0003    imagenet          6,000       30  40.0% -> 50.0%  refused: significantly worse",
        "a0004    skipped: a0004 has no meta.json: it is incomplete or was not made by Tightloop",
    ]


def test_the_list_says_if_training_starts_from_the_pretrained_weights(
    root: Path, command: Command
) -> None:
    save_body(root)
    note = "note: full training starts from the pre-trained weights"
    assert command("bodies")[-1] == note
    Bodies(root).set_start("a0001", by="loop")
    assert command("bodies")[-1].endswith("next start")
    (root / "a0001/model.safetensors").unlink()
    assert command("bodies")[-1].startswith(f"{note}, because a0001 has no model.safetensors")


def test_a_start_chosen_by_hand_is_recorded_and_the_loop_is_told(
    root: Path, command: Command, redis_server: RedisServer
) -> None:
    save_body(root)
    Bodies(root).set_start("a0001", by="loop", now=NOON)
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert command("start", PRETRAINED) == [
        "full training now starts from the pre-trained weights; the trainer trains a new version "
        "as soon as it is free, and the current version stays in service until then"
    ]
    start = Bodies(root).start()
    assert (start.name, start.chosen_by) == (PRETRAINED, "person")
    assert start.chosen_at is not None
    assert start.chosen_at > before
    assert ProjectStore(root).facts().start_changed_at == start.chosen_at.timestamp()
    assert TrainingQueue(redis_server.url).hints(7).looks == 1


def test_start_auto_chooses_the_newest_accepted_body_and_lets_the_loop_choose_again(
    root: Path, command: Command
) -> None:
    save_body(root)
    save_body(root, 2)
    save_body(root, 3, refused="significantly worse")
    save_body(root, 4)
    Bodies(root).mark_pruned("a0004", NOON)
    command("start", PRETRAINED)
    first, second = command("start", "auto")
    assert first == "the loop chooses the start again after each adaptation"
    assert second.startswith("full training now starts from a0002; ")
    start = Bodies(root).start()
    assert (start.name, start.chosen_by) == ("a0002", "loop")


def test_start_auto_without_an_accepted_body_is_the_pretrained_weights(
    root: Path, command: Command
) -> None:
    save_body(root, refused="significantly worse")
    command("start", "a0001")
    command("start", "auto")
    assert (Bodies(root).start().name, Bodies(root).start().chosen_by) == (PRETRAINED, "loop")


def test_choosing_the_start_again_does_not_request_training(root: Path, command: Command) -> None:
    save_body(root)
    Bodies(root).set_start("a0001", by="loop", now=NOON)
    ProjectStore(root).record(start_changed_at=NOON.timestamp())
    assert command("start", "a0001") == ["full training already starts from a0001"]
    assert Bodies(root).start().chosen_by == "person"
    assert ProjectStore(root).facts().start_changed_at == NOON.timestamp()


def test_a_person_may_start_from_a_refused_body_and_is_told_so(
    root: Path, command: Command
) -> None:
    save_body(root, refused="significantly worse")
    first, second = command("start", "a0001")
    assert first.startswith("full training now starts from a0001; ")
    assert second == "note: a0001 was refused after its adaptation: significantly worse"


def test_an_unusable_start_is_refused_and_nothing_changes(root: Path, command: Command) -> None:
    save_body(root)
    (root / "a0001/model.safetensors").write_bytes(b"damaged")
    for name, reason in (("a0001", "a0001/model.safetensors is damaged"), ("a0002", "no body")):
        with pytest.raises(ModelFolderError, match=reason):
            command("start", name)
    assert Bodies(root).start().chosen_at is None
    assert ProjectStore(root).facts().start_changed_at == 0.0


def test_another_adaptation_may_be_requested_and_failures_are_forgotten(
    root: Path, command: Command, redis_server: RedisServer
) -> None:
    store = ProjectStore(root)
    store.record(pool_images=6_000, adapted_images=6_000)
    store.record_failure(
        "adapt", NOON.timestamp(), adapt_failures=3, adapt_error="the disk is full"
    )
    assert command("adapt") == [
        "another adaptation is requested, for at most 30 minutes; `python -m scripts.status` shows "
        "when it runs"
    ]
    facts = store.facts()
    assert must_adapt("auto", facts.pool_images, facts.adapted_images)
    assert retry_at(facts) == 0
    assert TrainingQueue(redis_server.url).hints(7).looks == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("off", "ADAPT=off is set: set ADAPT to"),
        ("auto", "needs 5,000 images, and the pool has 90"),
    ],
)
def test_an_adaptation_that_the_setting_does_not_allow_is_refused(
    root: Path, command: Command, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    ProjectStore(root).record(pool_images=90, adapted_images=90)
    monkeypatch.setenv("ADAPT", setting)
    with pytest.raises(SettingsError, match=message):
        command("adapt")
    assert ProjectStore(root).facts().adapted_images == 90
