"""Save and promote model versions, and skip broken ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from backend.base.errors import (
    BrokenVersionError,
    ModelFolderError,
    NoModelError,
)
from backend.measures.evaluation import Evaluation
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.store.project_record import (
    FormerSettings,
    ProjectRecord,
    project_root,
)
from backend.store.registry import Registry
from backend.store.tensor_file import State
from backend.store.version_meta import Meta

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
        "validation": Evaluation(accuracy=0.5, log_loss=0.7, images=2000),
        "test": None,
        "refused": None,
        "seconds": {"training": 1.0},
        "torch": "2",
        "device": "cpu",
    }
    return Meta.model_validate(fields | changes)


def state_of(meta: Meta) -> State:
    """Return weights of a network so narrow that it takes 30 kB, not 45 MB: all zeros, except for
    a last layer that counts from 0.
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


def attached(own: ProjectRecord) -> ProjectRecord:
    """Return the record of a project that Tightloop was attached to."""
    former = FormerSettings(
        sampling="Sequential sampling",
        model_version="v3",
        show_collab_predictions=True,
        description="",
    )
    return own.model_copy(update={"attached": former, "validation": "people"})


def test_a_saved_version_is_loaded_unchanged(root: Path) -> None:
    saved = save(root, meta())
    assert Registry(root).read_meta("r0001") == saved
    weight = Registry(root).load_state("r0001")["fc.weight"]
    assert weight.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]]
    assert len(saved.sha256) == 64


def test_a_version_is_never_overwritten(root: Path) -> None:
    save(root, meta())
    with pytest.raises(ModelFolderError, match="already exists"):
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


def test_promoting_a_missing_version_names_the_existing_ones(root: Path) -> None:
    save(root, meta())
    with pytest.raises(NoModelError, match="known versions: r0001"):
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
            "belongs to",
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
    assert current.version == "r0001"  # the previous version serves
    assert Registry(root).last_round() == 2  # its number is not reused


def test_flipped_bits_in_the_weights_are_detected(root: Path) -> None:
    save(root, meta())
    path = root / "r0001" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenVersionError, match="sha256"):
        Registry(root).load_state("r0001")
    with pytest.raises(BrokenVersionError, match="sha256"):
        Registry(root).promote("r0001")


def test_other_files_in_the_folder_are_not_versions(root: Path) -> None:
    save(root, meta())
    (root / "notes").mkdir()
    (root / "r0002").write_text("a file, not a folder")
    (root / ".draft-r0002-1").mkdir()
    assert [m.version for m in Registry(root).versions()[0]] == ["r0001"]


def test_a_killed_save_leaves_no_version_and_its_draft_is_deleted(root: Path) -> None:
    leftover = root / ".draft-r0001-99"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    assert Registry(root).versions() == ([], {})
    save(root, meta())
    assert not leftover.exists()


def test_a_full_disk_is_one_clear_error_and_leaves_no_partial_version(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ModelFolderError, match="No space left on device"):
        save(root, meta())
    assert Registry(root).versions() == ([], {})


def test_a_damaged_current_says_how_to_repair_it_and_promoting_repairs_it(root: Path) -> None:
    save(root, meta())
    (root / "current").write_text("r0001")
    with pytest.raises(ModelFolderError, match=r"scripts\.models promote"):
        Registry(root).current()
    Registry(root).promote("r0001")
    assert Registry(root).current() is not None


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


def test_without_its_folder_the_version_in_service_falls_back_to_the_previous_one(
    root: Path,
) -> None:
    for number in (1, 2):
        save(root, meta(number))
        Registry(root).promote(f"r000{number}")
    shutil.rmtree(root / "r0002")
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"


def test_heads_are_sorted_between_their_body_and_the_next(root: Path) -> None:
    for number, name in ((2, "r0002"), (1, "r0001h10"), (1, "r0001h02"), (1, "r0001")):
        save(root, meta(number, version=name))
    names = [found.version for found in Registry(root).versions()[0]]
    assert names == ["r0001", "r0001h02", "r0001h10", "r0002"]
    assert Registry(root).last_round() == 2
    assert [Registry(root).next_head(body) for body in ("r0001", "r0002")] == [
        "r0001h11",
        "r0002h01",
    ]


def test_a_head_is_loaded_with_its_body_and_can_be_promoted(root: Path) -> None:
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
    assert "r0002 has no meta.json" in Registry(root).versions()[1]["r0002h01"]


def test_a_version_that_is_measured_again_keeps_everything_but_its_accuracy(root: Path) -> None:
    saved = save(root, meta())
    measured = Evaluation(accuracy=0.75, log_loss=0.6, images=120)
    Registry(root).record_validation("r0001", measured)
    found = Registry(root).read_meta("r0001")
    assert found == saved.model_copy(update={"validation": measured})
    assert Registry(root).load_state("r0001")
