"""What pruning deletes, what it keeps, and what is said a day before."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from backend.base.errors import LabelStudioError, NoModelError, StoreError
from backend.store import pruning, version_probs
from backend.store.project_db import writing
from backend.store.project_record import project_root, write_record
from backend.store.registry import Promotion, Registry
from backend.store.version_meta import Meta
from scripts import models
from tests.unit.store.test_registry import meta, record, save

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
A_DAY_AGO = NOON - timedelta(days=1)
PROBS = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project_root(tmp_path, 7)


def add(root: Path, name: str) -> None:
    """Save a version with its scores, and put it in service."""
    save(root, meta(int(name[1:5]), version=name))
    version_probs.save_pool_probs(root, name, ("a", "b"), PROBS)
    version_probs.save_validation_probs(root, name, np.array([0, 1]), PROBS)
    Registry(root).promote(name, NOON - timedelta(days=2))


def fill(root: Path, *names: str) -> None:
    for name in names:
        add(root, name)


def nobody() -> Collection[str]:
    return ()


def not_asked() -> Collection[str]:
    pytest.fail("Label Studio was asked for nothing")


def prune(
    root: Path,
    keep_versions: int = 2,
    find_named: Callable[[], Collection[str]] = nobody,
    announced_at: datetime | None = A_DAY_AGO,
    now: datetime = NOON,
) -> datetime | None:
    return pruning.prune(root, keep_versions, find_named, announced_at, now)


def pruned(root: Path) -> list[str]:
    """Names of pruned versions, after a look that no version is broken and all others are whole."""
    sound, broken = Registry(root).versions()
    assert broken == {}
    for found in sound:
        if found.pruned_at is None:
            Registry(root).load_state(found.version)
    return [found.version for found in sound if found.pruned_at is not None]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# The choice


SIX = ("r0001", "r0002", "r0003", "r0004", "r0005", "r0006")


@pytest.mark.parametrize(
    ("promoted", "keep_versions", "named", "going"),
    [
        # promoted: newest first
        ("r0006 r0005 r0004 r0003 r0002 r0001", 2, "", "r0001 r0002 r0003 r0004"),
        ("r0006 r0005 r0004 r0003 r0002 r0001", 5, "", "r0001"),
        ("r0006 r0005 r0004 r0003 r0002 r0001", 6, "", ""),
        ("r0006 r0005 r0004 r0003 r0002 r0001", 0, "", ""),
        # The last two that were in service stay beyond the newest one.
        ("r0006 r0005 r0004 r0003 r0002 r0001", 1, "", "r0001 r0002 r0003 r0004"),
        ("r0004 r0002 r0001", 1, "", "r0001 r0003 r0005"),
        # Nothing was ever put in service.
        ("", 2, "", "r0001 r0002 r0003 r0004"),
        # Rolled back: what was in service before that stays, too.
        ("r0001 r0004 r0003", 2, "", "r0002 r0003"),
        # A head in service stands on an old body.
        ("r0002h01 r0006 r0005", 1, "", "r0001 r0003 r0004 r0005"),
        # Heads of one body are one body.
        ("r0003h01 r0003h09 r0003 r0002 r0001", 1, "", "r0001 r0004 r0005"),
        # What was promoted last is damaged, and so is the one before: the third is in service.
        ("r0006h08 r0005h08 r0001", 1, "", "r0002 r0003 r0004"),
        # Predictions name a version, a head that has no folder any more, and somebody else's model.
        ("r0006 r0005", 2, "r0003", "r0001 r0002 r0004"),
        ("r0006 r0005", 2, "r0001h07 gpt-4", "r0002 r0003 r0004"),
    ],
)
def test_what_may_go_is_neither_new_nor_in_service_lately_nor_on_anybodys_screen(
    promoted: str, keep_versions: int, named: str, going: str
) -> None:
    metas = [meta(int(v[1:5]), version=v) for v in (*SIX, "r0002h01", "r0003h01")]
    history = [Promotion(version=v, promoted_at=NOON) for v in promoted.split()]
    chosen = pruning.choose_pruned(metas, history, keep_versions, set(named.split()))
    assert chosen == going.split()


def test_what_is_pruned_is_not_chosen_again_and_counts_among_the_newest() -> None:
    def made(version: str) -> Meta:
        return meta(
            int(version[1:]), version=version, pruned_at=NOON if version < "r0003" else None
        )

    metas = [made(version) for version in SIX]
    assert pruning.choose_pruned(metas, [], 2, ()) == ["r0003", "r0004"]
    assert pruning.choose_pruned(metas, [], 5, ()) == []


@pytest.mark.parametrize(
    ("waited", "step"),
    [
        (None, "announce"),
        (timedelta(0), "wait"),
        (timedelta(hours=23, minutes=59), "wait"),
        (timedelta(hours=24), "prune"),
        (timedelta(days=900), "prune"),
    ],
)
def test_people_have_a_day_between_the_announcement_and_the_pruning(
    waited: timedelta | None, step: str
) -> None:
    assert pruning.next_step(None if waited is None else NOON - waited, NOON) == step


# What is deleted


def test_a_pruned_version_and_its_heads_keep_their_metadata_alone(root: Path) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003", "r0004")
    whole = files(root / "r0004")
    assert whole == {
        "meta.json", "model.safetensors", "pool.safetensors", "validation.safetensors",
    }  # fmt: skip
    prune(root)
    assert pruned(root) == ["r0001", "r0001h01", "r0002"]
    for name in ("r0001", "r0001h01", "r0002"):
        assert files(root / name) == {"meta.json"}
    assert files(root / "r0003") == files(root / "r0004") == whole
    found = Registry(root).read_meta("r0001h01")
    assert (found.pruned_at, found.labels, found.validation.accuracy) == (NOON, 10, 0.5)


def test_with_0_all_are_kept(root: Path) -> None:
    fill(root, *SIX)
    assert prune(root, 0, not_asked) is None
    assert pruned(root) == []


def test_a_head_in_service_keeps_its_old_body(root: Path) -> None:
    fill(root, *SIX, "r0001h01")
    prune(root, 1)
    assert pruned(root) == ["r0002", "r0003", "r0004", "r0005"]
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001h01"


def test_after_a_roll_back_both_sides_of_it_stay(root: Path) -> None:
    fill(root, *SIX)
    Registry(root).promote("r0002", NOON)
    add(root, "r0007")
    prune(root, 1)
    # In service r0007, before it r0002; r0006 was in service before that.
    assert pruned(root) == ["r0001", "r0003", "r0004", "r0005", "r0006"]
    assert Registry(root).promote("r0002").version == "r0002"


def test_what_predictions_in_label_studio_name_stays_with_the_body_that_it_stands_on(
    root: Path,
) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003", "r0004", "r0005")
    prune(root, find_named=lambda: ["r0001h01", "r0003"])
    assert pruned(root) == ["r0002"]
    prune(root)  # they have been answered
    assert pruned(root) == ["r0001", "r0001h01", "r0002", "r0003"]


@pytest.mark.parametrize("keep_versions", [1, 3])
def test_numbers_of_pruned_versions_and_of_their_heads_are_not_given_again(
    root: Path, keep_versions: int
) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003", "r0004")
    prune(root, keep_versions)
    for name in ("r0003", "r0004"):
        shutil.rmtree(root / name)
    assert Registry(root).last_round() == 2
    assert Registry(root).next_head("r0001") == "r0001h02"


def test_a_pruned_version_is_not_promoted_and_the_sentence_says_why(root: Path) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003")
    prune(root)
    for name in ("r0001", "r0001h01"):
        with pytest.raises(NoModelError) as caught:
            Registry(root).promote(name)
        assert str(caught.value) == (
            f"the weights of {name} were pruned on 2026-01-01: choose another version; a higher "
            "KEEP_VERSIONS keeps more of them (0: all)"
        )
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0003"


def test_a_damaged_version_in_service_falls_back_past_pruned_ones(root: Path) -> None:
    fill(root, "r0001", "r0002", "r0003")
    Registry(root).mark_pruned("r0002", NOON)
    (root / "r0003/model.safetensors").write_bytes(b"damaged")
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"
    assert list(Registry(root).versions()[1]) == ["r0003"]


# A crash, and a reader beside it


class _Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("n_changes", range(10))
def test_a_crash_leaves_versions_whole_or_pruned_and_the_rest_goes_with_the_next_pruning(
    root: Path, monkeypatch: pytest.MonkeyPatch, n_changes: int
) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003", "r0004")
    left = n_changes

    def then_die(change: Callable[..., None]) -> Callable[..., None]:
        def changed(*arguments: object, **options: object) -> None:
            nonlocal left
            if left == 0:
                raise _Killed
            left -= 1
            change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        # Two marks, then three files of each of three versions.
        patch.setattr(Registry, "mark_pruned", then_die(Registry.mark_pruned))
        patch.setattr(Path, "unlink", then_die(Path.unlink))
        with pytest.raises(_Killed):
            prune(root)
    expected = [[], ["r0001", "r0001h01"], ["r0001", "r0001h01", "r0002"]]
    assert pruned(root) == expected[min(n_changes, 2)]
    prune(root)
    assert pruned(root) == expected[2]
    assert [files(root / name) for name in expected[2]] == [{"meta.json"}] * 3


def test_whoever_reads_a_version_while_it_is_pruned_does_not_find_it_broken(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003")
    check = Registry._check_weights

    def check_late(*arguments: object) -> None:
        monkeypatch.setattr(Registry, "_check_weights", check)
        prune(root)
        check(*arguments)  # type: ignore[arg-type]

    for name in ("r0001", "r0001h01"):
        monkeypatch.setattr(Registry, "_check_weights", check_late)
        assert Registry(root).read_meta(name).pruned_at == NOON


# What is said before


def test_the_first_pruning_is_announced_once_and_comes_a_day_later(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fill(root, *SIX)
    announced_at = prune(root, 2, not_asked, None, NOON)
    assert announced_at == NOON
    [said] = caplog.messages
    assert said == (
        "the weights of 4 of 6 full versions will be deleted after 2026-01-02 12:00 UTC; "
        "set KEEP_VERSIONS=0 to keep all"
    )
    later = NOON + timedelta(hours=23)
    assert prune(root, 2, not_asked, announced_at, later) == NOON
    assert pruned(root) == []
    assert len(caplog.messages) == 1
    assert prune(root, 2, nobody, announced_at, NOON + timedelta(days=1)) == NOON
    assert pruned(root) == ["r0001", "r0002", "r0003", "r0004"]
    assert caplog.messages[1:] == [
        "pruned the weights of r0001, r0002, r0003, r0004: KEEP_VERSIONS=2"
    ]
    add(root, "r0007")  # from now on it goes without saying
    assert prune(root, 2, nobody, announced_at, NOON + timedelta(days=2)) == NOON
    assert pruned(root)[-1] == "r0005"


def test_whoever_kept_all_after_the_announcement_is_told_again(root: Path) -> None:
    fill(root, *SIX)
    assert prune(root, 2, not_asked, None) == NOON
    for kept in (0, 6):
        assert prune(root, kept, not_asked, NOON, NOON + timedelta(hours=1)) is None
    prune(root)
    assert prune(root, 0) is None
    assert prune(root, 2) == A_DAY_AGO  # nothing goes, and what went was announced


def test_the_notice_stands_until_the_weights_are_gone_or_all_are_kept(root: Path) -> None:
    def notice(keep_versions: int = 3) -> str:
        return pruning.notice(root, Registry(root).versions()[0], keep_versions)

    fill(root, "r0001", "r0002", "r0003", "r0004")
    assert notice() == ""  # not announced yet
    pruning.write_announcement(root, prune(root, 3, announced_at=None))
    assert notice() == (
        "the weights of 1 of 4 full versions will be deleted after 2026-01-02 12:00 UTC; "
        "set KEEP_VERSIONS=0 to keep all"
    )
    assert notice(0) == ""
    prune(root, 3, announced_at=NOON, now=NOON + timedelta(days=1))
    assert notice() == ""
    add(root, "r0005")
    assert notice() == ""


def test_an_announcement_comes_back_and_can_be_taken_back(root: Path) -> None:
    assert pruning.read_announcement(root) is None
    assert not root.exists()
    pruning.write_announcement(root, NOON)
    assert pruning.read_announcement(root) == NOON
    pruning.write_announcement(root, None)
    assert pruning.read_announcement(root) is None


@pytest.mark.parametrize(
    "damage", ["", "[]", '"soon"', '"2026-01-01T12:00:00"', "-1.0", "Infinity", "1e300"]
)
def test_an_unreadable_announcement_is_an_error_that_says_what_to_do(
    root: Path, damage: str
) -> None:
    pruning.write_announcement(root, NOON)
    with writing(root) as db:
        db.execute("UPDATE own_fact SET value = ? WHERE name = 'pruning_announced_at'", (damage,))
    with pytest.raises(StoreError, match=r"is damaged .* restore a backup"):
        pruning.read_announcement(root)
    with pytest.raises(StoreError, match=r"is damaged .* restore a backup"):
        pruning.notice(root, [], 2)


def test_where_label_studio_is_away_nothing_goes(root: Path) -> None:
    def away() -> Collection[str]:
        raise LabelStudioError("Label Studio cannot be reached")

    fill(root, *SIX)
    with pytest.raises(LabelStudioError):
        prune(root, find_named=away)
    assert pruned(root) == []


def test_the_list_says_which_versions_are_pruned_and_what_will_go(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed() -> list[str]:
        monkeypatch.setattr(sys, "argv", ["models", "list"])
        assert models.main() == 0
        return capsys.readouterr().out.splitlines()

    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("MODEL_DIR", str(root.parent))
    monkeypatch.setenv("KEEP_VERSIONS", "2")
    write_record(root, record(7))
    fill(root, "r0001", "r0002", "r0003")
    pruning.write_announcement(root, A_DAY_AGO)
    assert listed()[-1] == (
        "note: the weights of 1 of 3 full versions will be deleted after 2026-01-01 12:00 UTC; "
        "set KEEP_VERSIONS=0 to keep all"
    )
    prune(root)
    _, first, second, third = listed()
    assert (first[:5], first.split("  ")[-1]) == ("r0001", "pruned")
    assert second.endswith("+00:00")
    assert third.endswith("in service")


# Heads and embeddings


def test_the_name_of_a_head_that_was_deleted_is_not_given_again(root: Path) -> None:
    save(root, meta())
    for number in range(1, pruning.HEADS_KEPT + 3):
        save(root, meta(version=f"r0001h{number:02d}"))
        Registry(root).promote(f"r0001h{number:02d}")
    prune(root)
    assert not (root / "r0001h01").exists()
    for head in root.glob("r0001h*"):
        shutil.rmtree(head)
    assert Registry(root).next_head("r0001") == f"r0001h{pruning.HEADS_KEPT + 3:02d}"


def test_embeddings_of_the_last_two_bodies_are_kept_and_a_young_draft_too(root: Path) -> None:
    for number in (1, 2, 3):
        save(root, meta(number, body_key=f"{number:016d}"))
        Registry(root).promote(f"r000{number}")
    folder = root / "embeddings"
    folder.mkdir()
    names = [f"{n:016d}-32px-x.safetensors" for n in (1, 2, 3)]
    for name in (*names, "old.draft-1", "young.draft-2"):
        (folder / name).touch()
    os.utime(folder / "old.draft-1", (0, 0))
    prune(root)
    assert {path.name for path in folder.iterdir()} == {*names[1:], "young.draft-2"}


def test_a_head_that_loses_its_weights_is_no_newer_for_that(root: Path) -> None:
    heads = [f"r0003h{number:02d}" for number in range(1, pruning.HEADS_KEPT)]
    fill(root, "r0001", "r0001h01", "r0002", "r0003", *heads)
    prune(root)
    assert pruned(root) == ["r0001", "r0001h01"]
    add(root, f"r0003h{pruning.HEADS_KEPT:02d}")
    prune(root)
    assert not (root / "r0001h01").exists()
    assert all((root / head).exists() for head in heads)
