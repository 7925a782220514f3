"""Model versions on disk: whole or not at all, and a broken one never in the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from backend.base.errors import (
    BrokenVersionError,
    ModelFolderError,
    NoModelError,
    SettingsError,
    StoreError,
)
from backend.base.labeling import Annotation, Task, TaskReading
from backend.measures.evaluation import Evaluation
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.store.locks import lock
from backend.store.project_record import (
    ProjectRecord,
    known_projects,
    pick_project,
    project_root,
    read_record,
    write_record,
)
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.version_meta import Meta
from backend.store.version_weights import State, body_key

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def meta(number: int = 1, **changes: object) -> Meta:
    fields: dict[str, object] = {
        "version": f"r{number:04d}",
        "round": number,
        "created_at": "2026-01-01T12:00:00+00:00",
        "parent": None,
        "classes": ("cat", "dog"),
        "image_size": 32,
        "pool": "digits",
        "weights": "none",
        "strategy": "margin",
        "labels": 10,
        "labels_per_class": {"cat": 4, "dog": 6},
        "labels_fingerprint": "f",
        "left_out": {},
        "validation": Evaluation(accuracy=0.5, log_loss=0.7, images=20),
        "test": None,
        "refused": None,
        "seconds": {"training": 1.0},
        "torch": "2",
        "device": "cpu",
    }
    return Meta.model_validate(fields | changes)


def state_of(meta: Meta) -> State:
    """Weights of the shapes of a version's, of a network so narrow that it takes 30 kB, not 45 MB:
    all zeros, but for a last layer that counts from 0.
    """
    state: State = {
        name: np.zeros(shape, np.int64 if dtype == "I64" else np.float32)
        for name, (dtype, shape) in resnet18(len(meta.classes), width=1).items()
    }
    weight = state["fc.weight"]
    weight[:] = np.arange(weight.size, dtype=np.float32).reshape(weight.shape)
    return {name: state[name] for name in HEAD_TENSORS} if meta.is_head else state


def save(root: Path, meta: Meta) -> Meta:
    return Registry(root).save(state_of(meta), meta)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project_root(tmp_path, 7)


def record(project_id: int = 7) -> ProjectRecord:
    return ProjectRecord(
        project_id=project_id,
        title="T",
        label_studio_url="http://ls",
        project_created_at="2026",
        pool="digits",
        weights="none",
        seed=0,
        classes=("cat", "dog"),
    )


def test_a_saved_version_comes_back_as_it_was(root: Path) -> None:
    saved = save(root, meta())
    assert Registry(root).read_meta("r0001") == saved
    weight = Registry(root).load_state("r0001")["fc.weight"]
    assert weight.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]]
    assert len(saved.sha256) == 64


def test_a_version_is_never_overwritten(root: Path) -> None:
    save(root, meta())
    with pytest.raises(ModelFolderError, match="exists already"):
        save(root, meta())


def test_saving_does_not_promote(root: Path) -> None:
    save(root, meta())
    assert Registry(root).current() is None


def test_promoting_an_older_version_rolls_back(root: Path) -> None:
    for number in (1, 2):
        save(root, meta(number))
        Registry(root).promote(f"r000{number}", NOON + timedelta(hours=number))
    Registry(root).promote("r0001", NOON + timedelta(hours=3))
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"
    assert [p.version for p in Registry(root).promotions()] == ["r0001", "r0002", "r0001"]
    assert Registry(root).last_round() == 2


def test_promoting_what_is_not_there_names_what_is(root: Path) -> None:
    save(root, meta())
    with pytest.raises(NoModelError, match="there are r0001"):
        Registry(root).promote("r0009")
    with pytest.raises(NoModelError):
        Registry(root).promote("../p7/r0001")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda v: (v / "meta.json").unlink(), "no meta.json"),
        (lambda v: (v / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda v: (v / "meta.json").write_text('{"version": "r0002"'), "damaged"),
        (lambda v: (v / "meta.json").write_text("[]"), "damaged"),
        (
            lambda v: (v / "meta.json").write_text(
                (v / "meta.json").read_text().replace('"r0002"', '"r0003"')
            ),
            "foreign",
        ),
    ],
)
def test_a_broken_version_is_skipped_and_named(root: Path, damage: object, reason: str) -> None:
    for number in (1, 2):
        save(root, meta(number))
        Registry(root).promote(f"r000{number}")
    damage(root / "r0002")  # type: ignore[operator]
    sound, broken = Registry(root).versions()
    assert [m.version for m in sound] == ["r0001"]
    assert reason in broken["r0002"]
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"  # the one before it serves on
    assert Registry(root).last_round() == 2  # its number is not given out again


def test_flipped_bits_in_the_weights_are_found(root: Path) -> None:
    save(root, meta())
    path = root / "r0001" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenVersionError, match="sha256"):
        Registry(root).load_state("r0001")
    with pytest.raises(BrokenVersionError, match="sha256"):
        Registry(root).promote("r0001")


def test_other_files_in_the_folder_are_no_versions(root: Path) -> None:
    save(root, meta())
    (root / "notes").mkdir()
    (root / "r0002").write_text("a file, not a folder")
    (root / ".draft-r0002-1").mkdir()
    assert [m.version for m in Registry(root).versions()[0]] == ["r0001"]


def test_a_killed_save_leaves_no_version_and_its_rest_is_cleared_away(root: Path) -> None:
    leftover = root / ".draft-r0001-99"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    assert Registry(root).versions() == ([], {})
    save(root, meta())
    assert not leftover.exists()


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ModelFolderError, match="No space left on device"):
        save(root, meta())
    assert Registry(root).versions() == ([], {})


def test_a_damaged_current_says_how_to_mend_it_and_promoting_does(root: Path) -> None:
    save(root, meta())
    (root / "current").write_text("r0001")
    with pytest.raises(ModelFolderError, match=r"scripts\.models promote"):
        Registry(root).current()
    Registry(root).promote("r0001")
    assert Registry(root).current() is not None


def test_the_record_of_a_project_comes_back_and_names_its_folder(tmp_path: Path) -> None:
    root = project_root(tmp_path, 7)
    assert read_record(root) is None
    write_record(root, record())
    assert read_record(root) == record()
    (tmp_path / "p8").mkdir()  # not set up
    assert known_projects(tmp_path) == [7]


def test_a_damaged_record_says_what_to_do(root: Path) -> None:
    write_record(root, record())
    (root / "project.json").write_text(json.dumps({"project_id": 7}))
    with pytest.raises(ModelFolderError, match="setup_project"):
        read_record(root)


def test_the_only_project_need_not_be_named_but_one_of_several_must(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="setup_project"):
        pick_project(tmp_path, None)
    write_record(tmp_path / "p7", record(7))
    assert pick_project(tmp_path, None) == 7
    write_record(tmp_path / "p9", record(9))
    assert pick_project(tmp_path, 9) == 9
    with pytest.raises(SettingsError, match="7, 9"):
        pick_project(tmp_path, None)
    with pytest.raises(SettingsError, match="7, 9"):
        pick_project(tmp_path, 8)


def test_a_missing_model_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="MODEL_DIR"):
        known_projects(tmp_path / "gone")


DAMAGED = r"project\.db is damaged .*: restore a backup, or move it away"


def damage(root: Path, content: str) -> None:
    """Put something else in the database's place."""
    for rest in root.glob("project.db*"):
        rest.unlink()
    (root / "project.db").write_text(content)


def move_away(root: Path) -> None:
    """Do with a damaged database what its error says."""
    (root / "project.db").rename(root / "damaged.db")


def readings(rows: Mapping[int, Sequence[Annotation]]) -> list[TaskReading]:
    """Tasks with these annotations, as Label Studio would tell them."""
    return [
        TaskReading(
            Task(i, "img", not given, awaits_second_opinion=False), "2026-01-01", tuple(given), None
        )
        for i, given in rows.items()
    ]


def answer(annotation_id: int, label: str) -> Annotation:
    return Annotation(annotation_id, 5, "img", 2, label, was_skipped=False, updated_at="2026-01-01")


def test_changes_are_made_changed_and_deleted_annotations(root: Path) -> None:
    before = {1: "cat", 2: "dog", 3: "cat"}
    now = {1: "cat", 2: "cat", 4: "dog"}
    store = ProjectStore(root)
    store.record_tasks(readings({5: [answer(i, label) for i, label in now.items()]}), 10.0)
    store.record_learned(before, 11.0)
    assert store.new_answers() == (3, 10.0)
    store.record_learned(now, 12.0)
    assert store.new_answers() == (0, None)


def test_learned_annotations_come_back_and_without_them_all_count_as_new(root: Path) -> None:
    rows = readings({5: [answer(5, "cat")]})
    ProjectStore(root).record_tasks(rows, 10.0)
    assert ProjectStore(root).new_answers() == (1, 10.0)
    ProjectStore(root).record_learned({5: "cat"}, 11.0)
    assert ProjectStore(root).new_answers() == (0, None)
    damage(root, "{half")
    with pytest.raises(StoreError, match=DAMAGED):
        ProjectStore(root).new_answers()
    move_away(root)
    assert ProjectStore(root).new_answers() == (0, None)  # nothing is read yet
    ProjectStore(root).record_tasks(rows, 12.0)
    assert ProjectStore(root).new_answers() == (1, 12.0)


def _hold_until_killed(root: Path, is_held: object) -> None:
    with lock(root, "train"):
        is_held.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_a_lock_is_held_by_one_process_and_given_back_when_that_is_killed(root: Path) -> None:
    context = multiprocessing.get_context("spawn")
    is_held = context.Event()
    process = context.Process(target=_hold_until_killed, args=(root, is_held))
    process.start()
    assert is_held.wait(30)
    with (
        pytest.raises(ModelFolderError, match="held by another process"),
        lock(root, "train", wait_s=0.3),
    ):
        pytest.fail("two hold the lock")
    with lock(root, "push", wait_s=0.3):
        pass  # another lock
    process.kill()
    process.join()
    with lock(root, "train", wait_s=5):
        pass


def test_a_reader_never_sees_half_a_promotion(root: Path) -> None:
    for number in (1, 2):
        save(root, meta(number))
    Registry(root).promote("r0001")
    program = (
        "import sys; from pathlib import Path; from backend.store.registry import Registry\n"
        "for i in range(300): Registry(Path(sys.argv[1])).promote(f'r000{1 + i % 2}')"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(root)]) as writer:
        seen = set()
        while writer.poll() is None:
            current = Registry(root).current()
            assert current is not None
            seen.add(current.version)
    assert writer.returncode == 0
    assert seen == {"r0001", "r0002"}


def test_a_removed_folder_of_the_version_in_service_falls_back(root: Path) -> None:
    for number in (1, 2):
        save(root, meta(number))
        Registry(root).promote(f"r000{number}")
    shutil.rmtree(root / "r0002")
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"


def test_heads_come_between_their_body_and_the_next_one(root: Path) -> None:
    for number, name in ((2, "r0002"), (1, "r0001h10"), (1, "r0001h02"), (1, "r0001")):
        save(root, meta(number, version=name))
    names = [found.version for found in Registry(root).versions()[0]]
    assert names == ["r0001", "r0001h02", "r0001h10", "r0002"]
    assert Registry(root).last_round() == 2
    assert [Registry(root).next_head(body) for body in ("r0001", "r0002")] == [
        "r0001h11",
        "r0002h01",
    ]


def test_a_head_comes_with_its_body_and_can_be_promoted(root: Path) -> None:
    body = state_of(meta()) | {"conv1.weight": np.ones((1, 3, 7, 7), np.float32)}
    Registry(root).save(body, meta())
    head = meta(version="r0001h01")
    Registry(root).save(state_of(head) | {"fc.weight": np.full((2, 8), 7, np.float32)}, head)
    state = Registry(root).load_state("r0001h01")
    assert state["fc.weight"].tolist() == [[7] * 8] * 2
    assert (state["conv1.weight"] == 1).all()
    assert Registry(root).promote("r0001h01").body == "r0001"


def test_a_head_whose_body_is_broken_is_not_promoted(root: Path) -> None:
    save(root, meta())
    save(root, meta(version="r0001h01"))
    (root / "r0001/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BrokenVersionError, match="r0001/"):
        Registry(root).promote("r0001h01")


def test_a_head_without_its_body_is_broken_and_not_in_service(root: Path) -> None:
    for version in ("r0001", "r0002", "r0002h01"):
        save(root, meta(int(version[4]), version=version))
        Registry(root).promote(version)
    shutil.rmtree(root / "r0002")
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"
    assert "r0002 has no model.safetensors" in Registry(root).versions()[1]["r0002h01"]


def test_the_fingerprint_of_a_body_does_not_see_its_head() -> None:
    body = state_of(meta()) | {"conv1.weight": np.ones((2, 2), np.float32)}
    other_head = body | {"fc.weight": np.zeros((2, 2), np.float32)}
    other_body = body | {"conv1.weight": np.zeros((2, 2), np.float32)}
    assert body_key(body) == body_key(other_head)
    assert body_key(body) != body_key(other_body)


def test_answers_come_back_and_unreadable_ones_count_as_none(root: Path) -> None:
    row, noon = answer(1, "cat"), NOON.timestamp()
    ProjectStore(root).record_tasks(readings({5: [row], 6: []}), noon)
    ProjectStore(root).record_reading(noon, is_full=True)
    store = ProjectStore(root)
    assert store.facts().read_at == noon
    assert store.annotations() == {5: [row]}
    assert [task.task_id for task in store.tasks()] == [5, 6]
    for content in ("[]", '{"tasks": 3}'):
        damage(root, content)
        with pytest.raises(StoreError, match=DAMAGED):
            store.annotations()
    move_away(root)
    assert (store.annotations(), store.facts().read_at) == ({}, 0)  # all are read again
    damage(root, "")
    assert (store.annotations(), store.facts().read_at) == ({}, 0)
