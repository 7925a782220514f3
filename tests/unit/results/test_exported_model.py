"""Read versions as whole networks with the project's current classes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from backend.base.classes import ClassList
from backend.base.errors import BrokenVersionError, ExportError, NoModelError
from backend.measures.calibration import rescale
from backend.results.exported_model import read_model
from backend.store.registry import Registry
from tests.unit.store.test_registry import meta, save

CAT, DOG, OWL = "cat", "dog", "owl"
LOGITS = np.array([[1.0, 2.0, 0.5], [0.1, 0.0, 3.0]], np.float32)
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def save_three(root: Path) -> Registry:
    save(root, meta(classes=(CAT, DOG, OWL)))
    return Registry(root)


def test_the_version_in_service_is_read_unless_another_one_is_named(tmp_path: Path) -> None:
    registry = save_three(tmp_path)
    save(tmp_path, meta(2, classes=(CAT, DOG, OWL)))
    registry.promote("r0001")
    classes = ClassList((CAT, DOG, OWL), (CAT, DOG, OWL))
    assert read_model(registry, None, classes).meta.version == "r0001"
    assert read_model(registry, "r0002", classes).meta.version == "r0002"


def test_a_head_is_read_with_its_body(tmp_path: Path) -> None:
    registry = save_three(tmp_path)
    save(tmp_path, meta(version="r0001h01", classes=(CAT, DOG, OWL)))
    model = read_model(registry, "r0001h01", ClassList((CAT, DOG, OWL), (CAT, DOG, OWL)))
    assert model.state.keys() == registry.load_state("r0001").keys()
    assert model.classes == (CAT, DOG, OWL)
    assert model.class_of_output == (0, 1, 2)
    assert not model.is_merged


@pytest.mark.parametrize(
    ("classes", "names", "class_of_output"),
    [
        # Only the spelling differs.
        (ClassList((CAT, DOG, OWL), ("Dog", "cat", "owl")), ("cat", "Dog", "owl"), (0, 1, 2)),
        # owl was removed.
        (ClassList((CAT, DOG, OWL), (DOG, CAT)), (CAT, DOG), (0, 1)),
        # dog was renamed to hound, which joined the project afterwards.
        (
            ClassList((CAT, DOG, OWL, "hound"), (CAT, OWL, "hound"), ((DOG, "hound"),)),
            (CAT, "hound", OWL),
            (0, 1, 2),
        ),
        # owl was renamed to cat, so two outputs belong to cat.
        (ClassList((CAT, DOG, OWL), (CAT, DOG), ((OWL, CAT),)), (CAT, DOG), (0, 1, 0)),
        # ant joined the project after the version was trained.
        (ClassList((CAT, DOG, OWL, "ant"), (CAT, DOG, OWL, "ant")), (CAT, DOG, OWL), (0, 1, 2)),
    ],
)
def test_the_classes_are_the_current_ones_and_their_probabilities_those_of_tightloop(
    tmp_path: Path, classes: ClassList, names: tuple[str, ...], class_of_output: tuple[int, ...]
) -> None:
    model = read_model(save_three(tmp_path), "r0001", classes)
    assert (model.classes, model.class_of_output) == (names, class_of_output)
    # The last layer of test versions counts from 0, so its first column names the kept outputs.
    kept = (model.state["fc.weight"][:, 0] / model.state["fc.weight"].shape[1]).astype(int)
    temperature = 2.0
    exp = np.exp(LOGITS[:, kept] / temperature)
    own = exp / exp.sum(axis=1, keepdims=True) @ np.eye(len(names))[list(class_of_output)]
    shown = classes.align(rescale(PROBS, temperature))
    columns = [classes.names.index(name) for name in names]
    np.testing.assert_allclose(own, shown[:, columns], atol=1e-6)


def test_removed_and_later_classes_are_named(tmp_path: Path) -> None:
    classes = ClassList((CAT, DOG, OWL, "ant"), (CAT, DOG, "ant"))
    model = read_model(save_three(tmp_path), "r0001", classes)
    assert (model.removed, model.unknown) == ((OWL,), ("ant",))


def test_a_version_that_knows_fewer_than_two_current_classes_is_refused(tmp_path: Path) -> None:
    classes = ClassList((CAT, DOG, OWL, "ant"), (CAT, "ant"))
    with pytest.raises(ExportError, match="r0001 has only 1 of the project's current classes"):
        read_model(save_three(tmp_path), "r0001", classes)


def test_versions_that_cannot_be_exported_are_refused_with_the_reason(tmp_path: Path) -> None:
    classes = ClassList((CAT, DOG, OWL), (CAT, DOG, OWL))
    with pytest.raises(NoModelError, match="no version is in service yet"):
        read_model(Registry(tmp_path), None, classes)
    registry = save_three(tmp_path)
    with pytest.raises(NoModelError, match=r"no version 'r0009' in .*; known versions: r0001"):
        read_model(registry, "r0009", classes)
    (tmp_path / "r0001" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BrokenVersionError, match=r"r0001/model\.safetensors is damaged"):
        read_model(registry, "r0001", classes)
    registry.mark_pruned("r0001", datetime(2026, 1, 2, tzinfo=UTC))
    with pytest.raises(NoModelError, match="the weights of r0001 were pruned on 2026-01-02"):
        read_model(registry, "r0001", classes)
