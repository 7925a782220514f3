"""Choose and prune old versions, a day after the announcement."""

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
from backend.store import model_outputs, pruning
from backend.store.model_outputs import own_embeddings
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
    """Save a version with its scores and promote it."""
    save(root, meta(int(name[1:5]), version=name))
    model_outputs.save_pool_probs(root, name, ("a", "b"), PROBS)
    model_outputs.save_validation_probs(root, name, np.array([0, 1]), PROBS)
    Registry(root).promote(name, NOON - timedelta(days=2))


def fill(root: Path, *names: str) -> None:
    for name in names:
        add(root, name)


def none_named() -> Collection[str]:
    return ()


def not_asked() -> Collection[str]:
    pytest.fail("Label Studio was asked needlessly")


def prune(
    root: Path,
    keep_versions: int = 2,
    find_named: Callable[[], Collection[str]] = none_named,
    announced_at: datetime | None = A_DAY_AGO,
    now: datetime = NOON,
) -> datetime | None:
    pruning.write_announcement(root, announced_at)
    pruning.prune(root, own_embeddings(root, ""), keep_versions, find_named, now)
    return pruning.read_announcement(root)


def pruned(root: Path) -> list[str]:
    """Return the pruned versions; check that no version is broken and all others are complete."""
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
        # The last two versions in service are kept beside the newest one.
        ("r0006 r0005 r0004 r0003 r0002 r0001", 1, "", "r0001 r0002 r0003 r0004"),
        ("r0004 r0002 r0001", 1, "", "r0001 r0003 r0005"),
        # No version was ever in service.
        ("", 2, "", "r0001 r0002 r0003 r0004"),
        # Rolled back: the version that was in service before is kept.
        ("r0001 r0004 r0003", 2, "", "r0002 r0003"),
        # The head in service has an old body.
        ("r0002h01 r0006 r0005", 1, "", "r0001 r0003 r0004 r0005"),
        # Several heads of a body count as one body.
        ("r0003h01 r0003h09 r0003 r0002 r0001", 1, "", "r0001 r0004 r0005"),
        # The last two promoted versions are damaged: the third is in service.
        ("r0006h08 r0005h08 r0001", 1, "", "r0002 r0003 r0004"),
        # Predictions name a version, a head whose folder is deleted, and a foreign model.
        ("r0006 r0005", 2, "r0003", "r0001 r0002 r0004"),
        ("r0006 r0005", 2, "r0001h07 gpt-4", "r0002 r0003 r0004"),
    ],
)
def test_prunable_versions_are_neither_recent_nor_recently_in_service_nor_named_by_predictions(
    promoted: str, keep_versions: int, named: str, going: str
) -> None:
    metas = [meta(int(v[1:5]), version=v) for v in (*SIX, "r0002h01", "r0003h01")]
    history = [Promotion(version=v, promoted_at=NOON) for v in promoted.split()]
    chosen = pruning.choose_pruned(metas, history, keep_versions, set(named.split()))
    assert chosen == going.split()


def test_pruned_versions_are_not_chosen_again_and_count_among_the_newest() -> None:
    def made(version: str) -> Meta:
        return meta(
            int(version[1:]), version=version, pruned_at=NOON if version < "r0003" else None
        )

    metas = [made(version) for version in SIX]
    assert pruning.choose_pruned(metas, [], 2, ()) == ["r0003", "r0004"]
    assert pruning.choose_pruned(metas, [], 5, ()) == []


@pytest.mark.parametrize(
    ("waited", "going"),
    [
        (None, []),
        (timedelta(0), []),
        (timedelta(hours=23, minutes=59), []),
        (timedelta(hours=24), ["r0001"]),
        (timedelta(days=900), ["r0001"]),
    ],
)
def test_pruning_starts_a_day_after_its_announcement(
    root: Path, waited: timedelta | None, going: list[str]
) -> None:
    fill(root, "r0001", "r0002", "r0003")
    announced_at = None if waited is None else NOON - waited
    assert prune(root, announced_at=announced_at) == (announced_at or NOON)
    assert pruned(root) == going


# What is deleted


def test_a_pruned_version_and_its_heads_keep_only_their_metadata(root: Path) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003", "r0004")
    whole = files(root / "r0004")
    assert whole == {
        "meta.json", "model.safetensors", "pool", "validation.safetensors",
    }  # fmt: skip
    prune(root)
    assert pruned(root) == ["r0001", "r0001h01", "r0002"]
    for name in ("r0001", "r0001h01", "r0002"):
        assert files(root / name) == {"meta.json"}
    assert files(root / "r0003") == files(root / "r0004") == whole
    found = Registry(root).read_meta("r0001h01")
    assert found.validation is not None
    assert (found.pruned_at, found.labels, found.validation.accuracy) == (NOON, 10, 0.5)


def test_with_keep_versions_0_all_versions_are_kept(root: Path) -> None:
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


def test_after_a_rollback_both_versions_involved_are_kept(root: Path) -> None:
    fill(root, *SIX)
    Registry(root).promote("r0002", NOON)
    add(root, "r0007")
    prune(root, 1)
    # In service r0007, before it r0002; r0006 was in service before that.
    assert pruned(root) == ["r0001", "r0003", "r0004", "r0005", "r0006"]
    assert Registry(root).promote("r0002").version == "r0002"


def test_versions_named_by_predictions_are_kept_with_their_bodies(
    root: Path,
) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003", "r0004", "r0005")
    prune(root, find_named=lambda: ["r0001h01", "r0003"])
    assert pruned(root) == ["r0002"]
    prune(root)  # no prediction names them any more
    assert pruned(root) == ["r0001", "r0001h01", "r0002", "r0003"]


@pytest.mark.parametrize("keep_versions", [1, 3])
def test_numbers_of_pruned_versions_and_their_heads_are_not_reused(
    root: Path, keep_versions: int
) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003", "r0004")
    prune(root, keep_versions)
    for name in ("r0003", "r0004"):
        shutil.rmtree(root / name)
    assert Registry(root).last_round() == 2
    assert Registry(root).next_head("r0001") == "r0001h02"


def test_promoting_a_pruned_version_is_refused_with_the_reason(root: Path) -> None:
    fill(root, "r0001", "r0001h01", "r0002", "r0003")
    prune(root)
    for name in ("r0001", "r0001h01"):
        with pytest.raises(NoModelError) as caught:
            Registry(root).promote(name)
        assert str(caught.value) == (
            f"the weights of {name} were pruned on 2026-01-01: choose another version; a higher "
            "KEEP_VERSIONS keeps more versions (0: all)"
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


# A crash and a concurrent reader


class _Killed(BaseException):
    """Simulate the end of the process."""


@pytest.mark.parametrize("n_changes", range(10))
def test_a_crash_leaves_no_half_pruned_version_and_the_next_pruning_completes_it(
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
        # Two markers, then two files and a folder of each of three versions.
        patch.setattr(Registry, "mark_pruned", then_die(Registry.mark_pruned))
        patch.setattr(Path, "unlink", then_die(Path.unlink))
        patch.setattr(shutil, "rmtree", then_die(shutil.rmtree))
        with pytest.raises(_Killed):
            prune(root)
    expected = [[], ["r0001", "r0001h01"], ["r0001", "r0001h01", "r0002"]]
    assert pruned(root) == expected[min(n_changes, 2)]
    prune(root)
    assert pruned(root) == expected[2]
    assert [files(root / name) for name in expected[2]] == [{"meta.json"}] * 3


def test_a_version_read_while_it_is_pruned_is_not_reported_as_broken(
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


# The announcement


def test_the_first_pruning_is_announced_once_and_comes_a_day_later(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fill(root, *SIX)
    announced_at = prune(root, 2, not_asked, None, NOON)
    assert announced_at == NOON
    [line] = caplog.messages
    assert line == (
        "the weights of 4 of 6 full versions will be deleted after 2026-01-02 12:00 UTC; "
        "set KEEP_VERSIONS=0 to keep all"
    )
    later = NOON + timedelta(hours=23)
    assert prune(root, 2, not_asked, announced_at, later) == NOON
    assert pruned(root) == []
    assert len(caplog.messages) == 1
    assert prune(root, 2, none_named, announced_at, NOON + timedelta(days=1)) == NOON
    assert pruned(root) == ["r0001", "r0002", "r0003", "r0004"]
    assert caplog.messages[1:] == [
        "pruned the weights of r0001, r0002, r0003, r0004: KEEP_VERSIONS=2"
    ]
    add(root, "r0007")  # later prunings are not announced
    assert prune(root, 2, none_named, announced_at, NOON + timedelta(days=2)) == NOON
    assert pruned(root)[-1] == "r0005"


def test_pruning_is_announced_again_after_all_versions_were_kept(root: Path) -> None:
    fill(root, *SIX)
    assert prune(root, 2, not_asked, None) == NOON
    for kept in (0, 6):
        assert prune(root, kept, not_asked, NOON, NOON + timedelta(hours=1)) is None
    prune(root)
    assert prune(root, 0) is None
    assert prune(root, 2) == A_DAY_AGO  # nothing is pruned, and what was pruned was announced


def test_the_notice_is_shown_until_the_weights_are_deleted_or_all_are_kept(root: Path) -> None:
    def notice(keep_versions: int = 3) -> str:
        return pruning.notice(root, Registry(root).versions()[0], keep_versions)

    fill(root, "r0001", "r0002", "r0003", "r0004")
    assert notice() == ""  # not announced yet
    prune(root, 3, announced_at=None)
    assert notice() == (
        "the weights of 1 of 4 full versions will be deleted after 2026-01-02 12:00 UTC; "
        "set KEEP_VERSIONS=0 to keep all"
    )
    assert notice(0) == ""
    prune(root, 3, announced_at=NOON, now=NOON + timedelta(days=1))
    assert notice() == ""
    add(root, "r0005")
    assert notice() == ""


def test_an_announcement_is_recorded_and_can_be_withdrawn(root: Path) -> None:
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


def test_nothing_is_pruned_while_label_studio_is_unreachable(root: Path) -> None:
    def away() -> Collection[str]:
        raise LabelStudioError("Label Studio cannot be reached")

    fill(root, *SIX)
    with pytest.raises(LabelStudioError):
        prune(root, find_named=away)
    assert pruned(root) == []


def test_the_list_shows_pruned_versions_and_those_to_be_pruned(
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


def test_the_name_of_a_deleted_head_is_not_reused(root: Path) -> None:
    save(root, meta())
    for number in range(1, pruning.HEADS_KEPT + 3):
        save(root, meta(version=f"r0001h{number:02d}"))
        Registry(root).promote(f"r0001h{number:02d}")
    prune(root)
    assert not (root / "r0001h01").exists()
    for head in root.glob("r0001h*"):
        shutil.rmtree(head)
    assert Registry(root).next_head("r0001") == f"r0001h{pruning.HEADS_KEPT + 3:02d}"


def test_embeddings_of_the_last_two_bodies_and_a_recent_draft_are_kept(root: Path) -> None:
    for number in (1, 2, 3):
        save(root, meta(number, body_key=f"{number:016d}"))
        Registry(root).promote(f"r000{number}")
    folder = root / "embeddings"
    folder.mkdir()
    names = [f"{n:016d}-32px-x" for n in (1, 2, 3)]
    for name in names:
        (folder / name).mkdir()
    drafts = [folder / names[2] / f".{name}.parquet.draft-{name}" for name in ("1", "2")]
    for draft in drafts:
        draft.touch()
    os.utime(drafts[0], (0, 0))
    (folder / f"{2:016d}-32px-x.safetensors").touch()  # of an earlier release
    prune(root)
    assert {path.name for path in folder.iterdir()} == {*names[1:]}
    assert [draft.exists() for draft in drafts] == [False, True]


def test_drafts_of_killed_processes_are_deleted_after_an_hour(root: Path) -> None:
    save(root, meta(1))
    for process in (1, 2):
        (root / f".current.draft-{process}").touch()
        (root / f"r0001/pool.draft-{process}").touch()
        (root / f".draft-r0002-{process}").mkdir()
    for draft in root.rglob("*draft-*1"):
        os.utime(draft, (0, 0))
    prune(root)
    left = {".current.draft-2", "pool.draft-2", ".draft-r0002-2"}
    assert {path.name for path in root.rglob("*draft-*")} == left


def test_a_head_that_loses_its_weights_does_not_become_newer(root: Path) -> None:
    heads = [f"r0003h{number:02d}" for number in range(1, pruning.HEADS_KEPT)]
    fill(root, "r0001", "r0001h01", "r0002", "r0003", *heads)
    prune(root)
    assert pruned(root) == ["r0001", "r0001h01"]
    add(root, f"r0003h{pruning.HEADS_KEPT:02d}")
    prune(root)
    assert not (root / "r0001h01").exists()
    assert all((root / head).exists() for head in heads)


def test_a_head_that_is_measured_again_does_not_become_newer(root: Path) -> None:
    save(root, meta())
    for number in range(1, pruning.HEADS_KEPT + 1):
        made_at = f"2026-01-01T12:00:{number:02d}+00:00"
        save(root, meta(version=f"r0001h{number:02d}", created_at=made_at))
    Registry(root).record_validation("r0001h01", None)
    newest = f"r0001h{pruning.HEADS_KEPT + 1:02d}"
    save(root, meta(version=newest, created_at="2026-01-01T12:01:00+00:00"))
    prune(root)
    assert not (root / "r0001h01").exists()
    assert (root / newest).exists()


def test_pruning_keeps_the_outputs_for_the_validation_sample(root: Path) -> None:
    fill(root, "r0001", "r0002", "r0003")
    sample = model_outputs.SampleProbs(("a",), PROBS[:1], np.array([0]))
    model_outputs.save_sample_probs(root, "r0001", sample)
    prune(root)
    assert pruned(root) == ["r0001"]
    kept = model_outputs.load_sample_probs(root, "r0001")
    assert kept is not None
    assert kept.labels.tolist() == [0]
