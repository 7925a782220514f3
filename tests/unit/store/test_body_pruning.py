"""Delete the weights of adapted bodies only if no kept version was trained from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.base.errors import BrokenVersionError
from backend.store import pruning
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED, START
from backend.store.body_pruning import choose_pruned_bodies, prune_bodies
from backend.store.model_outputs import own_embeddings
from backend.store.project_record import project_root
from backend.store.registry import Registry
from backend.store.version_meta import Meta
from tests.unit.store.test_bodies import body_meta, save_body
from tests.unit.store.test_registry import meta, save

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project_root(tmp_path, 7)


def pruned(root: Path) -> list[str]:
    """Return the pruned bodies; check that all others can be loaded."""
    sound, broken = Bodies(root).all()
    assert broken == {}
    for found in sound:
        if found.pruned_at is None:
            Bodies(root).load_state(found.name)
        else:
            assert [path.name for path in (root / found.name).iterdir()] == ["meta.json"]
    return [found.name for found in sound if found.pruned_at is not None]


def add_version(root: Path, number: int, start: str) -> Meta:
    saved = save(root, meta(number, start=start))
    Registry(root).promote(saved.version, NOON - timedelta(days=2))
    return saved


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8),
    st.sets(st.sampled_from(["", PRETRAINED, "a0001", "a0002", "a0003", "a0005", "a0009"])),
)
def test_no_body_that_a_kept_version_or_the_start_names_is_pruned_and_the_newest_stays(
    kinds: list[tuple[bool, bool]], starts: set[str]
) -> None:
    bodies = [
        body_meta(n, pruned_at=NOON if gone else None, refused="worse" if worse else None)
        for n, (gone, worse) in enumerate(kinds, 1)
    ]
    going = choose_pruned_bodies(bodies, starts)
    assert starts.isdisjoint(going)
    newest = [body.name for body in bodies[-1:]]
    kept = {body.name for body in bodies if body.pruned_at is None} - set(going)
    assert kept <= {*starts, *newest}
    assert set(going) <= {body.name for body in bodies if body.pruned_at is None} - set(newest)


def test_a_body_goes_with_the_last_version_that_was_trained_from_it(root: Path) -> None:
    for number in (1, 2, 3):
        save_body(root, number)
    for number, start in enumerate(("", PRETRAINED, "a0001", "a0002", "a0002"), 1):
        add_version(root, number, start)
    Bodies(root).set_start("a0003", by="loop")
    prune_bodies(root, 2, NOON)
    assert pruned(root) == []
    pruning.write_announcement(root, NOON - timedelta(days=1))
    pruning.prune(root, own_embeddings(root, ""), 2, lambda: (), NOON)  # keeps r0004 and r0005
    assert pruned(root) == ["a0001"]
    assert Bodies(root).read_meta("a0001").pruned_at == NOON
    assert Bodies(root).read_meta("a0001").comparison == body_meta().comparison


def test_the_start_and_the_newest_body_are_kept_even_if_no_version_names_them(root: Path) -> None:
    for number in (1, 2, 3):
        save_body(root, number, refused="significantly worse" if number == 3 else None)
    Bodies(root).set_start("a0001", by="person")
    prune_bodies(root, 1, NOON)
    assert pruned(root) == ["a0002"]
    Bodies(root).set_start("a0003", by="person")
    prune_bodies(root, 1, NOON)
    assert pruned(root) == ["a0001", "a0002"]


def test_with_keep_versions_0_all_bodies_are_kept(root: Path) -> None:
    for number in (1, 2, 3):
        save_body(root, number)
    prune_bodies(root, 0, NOON)
    assert pruned(root) == []


def _lose_a_meta(root: Path) -> None:
    (root / "r0001/meta.json").write_text("{")


def _damage_the_start(root: Path) -> None:
    (root / "start").write_text("{")


@pytest.mark.parametrize("damage", [_lose_a_meta, _damage_the_start])
def test_nothing_is_pruned_while_a_file_that_may_name_a_body_cannot_be_read(
    root: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    for number in (1, 2, 3):
        save_body(root, number)
    add_version(root, 1, "a0001")
    damage(root)
    prune_bodies(root, 2, NOON)
    assert pruned(root) == []
    assert caplog.messages[-1].startswith("kept all adapted bodies: ")


def test_a_version_with_damaged_weights_keeps_its_body(root: Path) -> None:
    for number in (1, 2, 3):
        save_body(root, number)
    add_version(root, 1, "a0001")
    (root / "r0001/model.safetensors").write_bytes(b"damaged")
    prune_bodies(root, 2, NOON)
    assert pruned(root) == ["a0002"]


def test_a_broken_body_is_left_alone(root: Path) -> None:
    for number in (1, 2):
        save_body(root, number)
    (root / "a0001/model.safetensors").write_bytes(b"damaged")
    prune_bodies(root, 2, NOON)
    with pytest.raises(BrokenVersionError):
        Bodies(root).read_meta("a0001")
    assert (root / "a0001/model.safetensors").read_bytes() == b"damaged"


class _Killed(BaseException):
    """Simulate the end of the process."""


@pytest.mark.parametrize("died_before", ["mark_pruned", "unlink"])
def test_a_crash_leaves_no_half_pruned_body_and_the_next_pruning_completes_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, died_before: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise _Killed

    for number in (1, 2):
        save_body(root, number)
    with monkeypatch.context() as patch:
        patch.setattr(Bodies if died_before == "mark_pruned" else Path, died_before, die)
        with pytest.raises(_Killed):
            prune_bodies(root, 2, NOON)
    assert Bodies(root).all()[1] == {}
    prune_bodies(root, 2, NOON)
    assert pruned(root) == ["a0001"]


def test_a_body_read_while_it_is_pruned_is_not_reported_as_broken(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        save_body(root, number)
    check = Bodies._check_header

    def check_late(*arguments: object) -> None:
        monkeypatch.setattr(Bodies, "_check_header", check)
        prune_bodies(root, 2, NOON)
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Bodies, "_check_header", check_late)
    assert Bodies(root).read_meta("a0001").pruned_at == NOON


def test_embeddings_of_adapted_bodies_stay_as_long_as_their_weights(root: Path) -> None:
    keys = [save_body(root, number, value=float(number)).body_key for number in (1, 2, 3)]
    add_version(root, 1, "a0001")
    folder = root / "embeddings"
    folder.mkdir()
    for key in (*keys, "0" * 16):
        (folder / f"{key}-32px-x").mkdir()
    pruning.prune(root, own_embeddings(root, ""), 2, lambda: (), NOON)  # marks a0002 as pruned
    pruning.prune(root, own_embeddings(root, ""), 2, lambda: (), NOON)
    assert pruned(root) == ["a0002"]
    left = {path.name[:16] for path in folder.iterdir()}
    assert left == {keys[0], keys[2]}


def test_drafts_of_killed_saves_are_deleted_after_an_hour(root: Path) -> None:
    save_body(root)
    for process in (1, 2):
        (root / f".draft-a0002-{process}").mkdir()
        (root / f".start.draft-{process}").touch()
        (root / f"adapting.draft-{process}").touch()
        (root / f"a0001/.meta.json.draft-{process}").touch()
    for draft in root.rglob("*draft-*1"):
        os.utime(draft, (0, 0))
    pruning.prune(root, own_embeddings(root, ""), 2, lambda: (), NOON)
    left = {".draft-a0002-2", ".start.draft-2", "adapting.draft-2", ".meta.json.draft-2"}
    assert {path.name for path in root.rglob("*draft-*")} == left
    assert pruned(root) == []


@pytest.mark.parametrize("start", ["", PRETRAINED, "a0001", "a12345"])
def test_versions_name_their_start(start: str) -> None:
    assert meta(1, start=start).start == start
    assert bool(START.fullmatch(start)) == bool(start)


def test_versions_of_earlier_releases_name_no_start() -> None:
    fields = meta().model_dump(exclude={"start"})
    assert Meta.model_validate(fields).start == ""


@pytest.mark.parametrize("start", ["a1", "r0001", "imagenet", "../a0001"])
def test_a_version_cannot_name_anything_else_as_its_start(start: str) -> None:
    with pytest.raises(ValueError, match="start"):
        meta(1, start=start)
