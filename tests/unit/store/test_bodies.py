"""Save adapted bodies and choose the start; name damaged bodies and do without them."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.base.errors import BrokenVersionError, ModelFolderError
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.store import tensor_file
from backend.store.bodies import Bodies, Start
from backend.store.body_meta import PRETRAINED, BodyComparison, BodyMeta
from backend.store.project_record import project_root
from backend.store.registry import Registry
from backend.store.tensor_file import State
from tests.unit.store.test_registry import meta, save, state_of

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def body_meta(number: int = 1, **changes: object) -> BodyMeta:
    fields: dict[str, object] = {
        "name": f"a{number:04d}",
        "created_at": NOON,
        "made_from": "imagenet",
        "pool": "digits",
        "image_size": 32,
        "framing": "middle",
        "n_images": 6000,
        "images_fingerprint": "f",
        "steps": 100,
        "batch_size": 256,
        "passes": 4.3,
        "seconds": 1800.0,
        "torch": "2",
        "device": "cpu",
        "comparison": BodyComparison(
            labels=100,
            validation_images=500,
            accuracy_before=0.4,
            accuracy_after=0.5,
            p_value=0.01,
        ),
    }
    return BodyMeta.model_validate(fields | changes)


def body_state(value: float = 0.5) -> State:
    """Return the body of a narrow network, in which every number is the same."""
    return {
        name: np.full(shape, value, np.int64 if dtype == "I64" else np.float32)
        for name, (dtype, shape) in resnet18(2, width=1).items()
        if name not in HEAD_TENSORS
    }


def save_body(root: Path, number: int = 1, value: float = 0.5, **changes: object) -> BodyMeta:
    return Bodies(root).save(body_state(value), body_meta(number, **changes))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project_root(tmp_path, 7)


def names(root: Path) -> list[str]:
    return [found.name for found in Bodies(root).all()[0]]


# Saving and loading


def test_a_saved_body_is_loaded_as_it_was(root: Path) -> None:
    saved = save_body(root)
    assert Bodies(root).all() == ([saved], {})
    loaded = Bodies(root).load_state("a0001")
    assert loaded.keys() == body_state().keys()
    assert all(np.array_equal(loaded[name], array) for name, array in body_state().items())


def test_a_body_has_the_key_of_a_version_with_the_same_body(root: Path) -> None:
    state = state_of(meta())
    body = {name: array for name, array in state.items() if name not in HEAD_TENSORS}
    assert Bodies(root).save(body, body_meta()).body_key == tensor_file.body_key(state)


def test_the_pretrained_weights_of_a_body_are_found_through_the_bodies_it_was_made_from(
    root: Path,
) -> None:
    save_body(root, made_from="imagenet")
    save_body(root, 2, made_from="a0001")
    save_body(root, 3, made_from="a0002")
    assert Bodies(root).pretrained_weights("a0003") == "imagenet"


def test_an_empty_project_has_no_bodies_and_starts_from_the_pretrained_weights(root: Path) -> None:
    assert Bodies(root).all() == ([], {})
    assert Bodies(root).next_name() == "a0001"
    assert Bodies(root).usable_start() == Start(name=PRETRAINED, chosen_by="loop", chosen_at=None)
    assert not root.exists()


def test_bodies_are_listed_in_the_order_of_their_numbers(root: Path) -> None:
    for number in (10_000, 2, 9_999):
        save_body(root, number)
    assert names(root) == ["a0002", "a9999", "a10000"]
    assert Bodies(root).next_name() == "a10001"


def test_the_name_of_a_deleted_body_is_not_reused_while_a_version_names_it(root: Path) -> None:
    save(root, meta(1, start="a0004"))
    assert Bodies(root).next_name() == "a0005"


def test_a_body_is_never_overwritten(root: Path) -> None:
    save_body(root, value=0.25)
    with pytest.raises(ModelFolderError, match="a0001 already exists"):
        save_body(root, value=0.75)
    assert Bodies(root).load_state("a0001")["conv1.weight"].max() == 0.25


def _with_head(state: State) -> State:
    return state | {"fc.bias": np.zeros(2, np.float32)}


def _without_a_layer(state: State) -> State:
    return {name: array for name, array in state.items() if name != "bn1.weight"}


def _with_nan(state: State) -> State:
    return state | {"bn1.weight": np.full(1, np.nan, np.float32)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_with_head, "'fc.bias' does not belong to it"),
        (_without_a_layer, "bn1.weight is missing"),
        (_with_nan, "bn1.weight contains NaN"),
    ],
)
def test_a_state_that_is_not_a_body_is_not_saved(
    root: Path, change: Callable[[State], State], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Bodies(root).save(change(body_state()), body_meta())
    assert list(root.glob("*")) + list(root.glob(".*")) == []


def test_a_reader_never_sees_half_a_body(root: Path) -> None:
    stop = threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not stop.is_set():
            sound, broken = Bodies(root).all()
            seen.extend(broken.values())
            for found in sound:
                Bodies(root).load_state(found.name)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 30):
        save_body(root, number)
    stop.set()
    reader.join()
    assert seen == []


class _Killed(BaseException):
    """Simulate the end of the process, after which no clean-up runs."""


@pytest.mark.parametrize("died_in", ["write_tensors", "sha256", "_write_meta", "rename"])
def test_a_killed_save_leaves_only_a_draft(
    root: Path, monkeypatch: pytest.MonkeyPatch, died_in: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr("backend.store.bodies.shutil.rmtree", lambda *_, **__: None)
        where: Any = {
            "write_tensors": "backend.store.tensor_file.write_tensors",
            "rename": "pathlib.Path.rename",
        }.get(died_in, f"backend.store.bodies.{died_in}")
        patch.setattr(where, die)
        with pytest.raises(_Killed):
            save_body(root)
    assert [path.name for path in root.iterdir()] == [f".draft-a0001-{os.getpid()}"]
    assert Bodies(root).all() == ([], {})
    assert Bodies(root).next_name() == "a0001"
    save_body(root)
    assert [path.name for path in root.iterdir()] == ["a0001"]


# Damaged bodies


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _put_a_head(folder: Path) -> None:
    tensor_file.write_tensors(folder / "model.safetensors", _with_head(body_state()))


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _without_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def _with_junk(folder: Path) -> None:
    (folder / "meta.json").write_bytes(b"[" * 100_000)


def _with_negative_passes(folder: Path) -> None:
    change_meta(folder, passes=-1)


def _renamed(folder: Path) -> None:
    change_meta(folder, name="a0009")


def change_meta(folder: Path, **changes: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "a0002/model.safetensors is damaged"),
        (_flip_a_bit, "a0002/model.safetensors differs from its sha256"),
        (_put_a_head, "'fc.bias' does not belong to it"),
        (_without_weights, "a0002 has no model.safetensors"),
        (_without_meta, "a0002 has no meta.json"),
        (_with_junk, "a0002/meta.json is damaged"),
        (_with_negative_passes, "'passes'"),
        (_renamed, "a0002/meta.json belongs to a0009"),
    ],
)
def test_a_damaged_start_is_named_and_skipped_and_training_starts_from_the_pretrained_weights(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    save_body(root, 1)
    save_body(root, 2)
    Bodies(root).set_start("a0002", by="loop", now=NOON)
    damage(root / "a0002")
    sound, broken = Bodies(root).all()
    assert [found.name for found in sound] == ["a0001"]
    assert reason in broken["a0002"]
    for _ in range(3):
        assert Bodies(root).usable_start().name == PRETRAINED
    assert reason in Bodies(root).start_fault()
    [line] = [message for message in caplog.messages if reason in message]
    assert line.endswith("; training starts from the pre-trained weights")
    for refused in (
        lambda: Bodies(root).load_state("a0002"),
        lambda: Bodies(root).set_start("a0002", by="person"),
    ):
        with pytest.raises(BrokenVersionError, match=re.escape(reason)):
            refused()
    assert Bodies(root).next_name() == "a0003"


@pytest.mark.parametrize("junk", [b"", b"[]", b"[" * 100_000, b'{"name": "../a0001"}', b"\xff"])
def test_a_damaged_start_file_is_logged_and_can_be_replaced(
    root: Path, caplog: pytest.LogCaptureFixture, junk: bytes
) -> None:
    save_body(root)
    (root / "start").write_bytes(junk)
    for _ in range(3):
        assert Bodies(root).usable_start().name == PRETRAINED
    assert len([message for message in caplog.messages if "start is damaged" in message]) == 1
    assert names(root) == ["a0001"]
    with pytest.raises(ModelFolderError, match=r"start is damaged: .* scripts\.models start"):
        Bodies(root).start()
    Bodies(root).set_start("a0001", by="person", now=NOON)
    assert Bodies(root).usable_start().name == "a0001"


# The start


def test_the_start_records_who_chose_it_and_when(root: Path) -> None:
    save_body(root, 1)
    save_body(root, 2)
    Bodies(root).set_start("a0001", by="loop", now=NOON)
    assert Bodies(root).start() == Start(name="a0001", chosen_by="loop", chosen_at=NOON)
    later = NOON + timedelta(hours=1)
    Bodies(root).set_start(PRETRAINED, by="person", now=later)
    assert Bodies(root).start() == Start(name=PRETRAINED, chosen_by="person", chosen_at=later)
    Bodies(root).set_start("a0002", by="loop", now=later)  # a later adaptation
    assert Bodies(root).usable_start().name == "a0002"


def test_choosing_the_same_start_again_keeps_the_time(root: Path) -> None:
    """Otherwise, a training run would follow, although nothing has changed."""
    save_body(root)
    Bodies(root).set_start("a0001", by="loop", now=NOON)
    Bodies(root).set_start("a0001", by="person", now=NOON + timedelta(hours=1))
    assert Bodies(root).start() == Start(name="a0001", chosen_by="person", chosen_at=NOON)


def test_a_refused_body_never_replaces_a_persons_choice_but_a_person_may_choose_it(
    root: Path,
) -> None:
    save_body(root, 1)
    save_body(root, 2, refused="significantly worse")
    Bodies(root).set_start("a0001", by="person", now=NOON)
    with pytest.raises(ModelFolderError, match=r"a0002 was refused \(significantly worse\)"):
        Bodies(root).set_start("a0002", by="loop")
    assert Bodies(root).start().name == "a0001"
    Bodies(root).set_start("a0002", by="person")
    assert Bodies(root).usable_start().name == "a0002"


@pytest.mark.parametrize("name", ["a0009", "", "r0001", "../a0001", "imagenet"])
def test_an_unknown_start_is_refused_with_the_known_ones(root: Path, name: str) -> None:
    save_body(root)
    with pytest.raises(ModelFolderError, match="known starts: a0001, pretrained"):
        Bodies(root).set_start(name, by="person")
    assert Bodies(root).start() == Start()


def test_a_pruned_body_is_refused_as_a_start_and_says_why(root: Path) -> None:
    save_body(root)
    Bodies(root).mark_pruned("a0001", NOON)
    (root / "a0001/model.safetensors").unlink()
    assert names(root) == ["a0001"]
    for refused in (
        lambda: Bodies(root).load_state("a0001"),
        lambda: Bodies(root).set_start("a0001", by="person"),
    ):
        with pytest.raises(ModelFolderError, match="a0001 were deleted on 2026-01-01, because"):
            refused()


def test_bodies_and_versions_do_not_mix(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    save(root, meta(1, start="a0001"))
    save_body(root)
    assert Registry(root).version_names() == ["r0001"]
    assert Bodies(root).names() == ["a0001"]
    assert caplog.messages == []
