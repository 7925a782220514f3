"""Make versions with a whole ResNet-18, and read them as exported models."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.base.classes import ClassList
from backend.images.framing import View, frame
from backend.network.resnet import build
from backend.results.exported_model import ExportedModel, read_model
from backend.store.registry import Registry
from backend.store.tensor_file import State
from backend.store.version_meta import Calibration, Meta
from tests.unit.store.test_registry import meta

CLASSES = ("cat", "dog", "owl", "ant")
UNCHANGED = ClassList(CLASSES, CLASSES)
CALIBRATION = Calibration(
    temperature=1.5, error_before=0.1, error_after=0.02, test_error_after=None
)


@cache
def network_state() -> State:
    """Return random weights whose last layer is so large that the classes' probabilities vary."""
    state = {k: v.numpy().copy() for k, v in build(len(CLASSES), None, seed=0).state_dict().items()}
    state["fc.weight"] -= state["fc.weight"].mean(axis=0)  # no class is likelier for all images
    state["fc.weight"] *= 20
    return state


def whole_meta(version: str, **changes: object) -> Meta:
    fields: dict[str, object] = {
        "version": version,
        "classes": CLASSES,
        "labels_per_class": dict.fromkeys(CLASSES, 10),
        "calibration": CALIBRATION,
    }
    return meta(**(fields | changes))  # type: ignore[arg-type]


def save_version(root: Path, version: str, **changes: object) -> Meta:
    return Registry(root).save(network_state(), whole_meta(version, **changes))


def exported(root: Path, classes: ClassList, **changes: object) -> ExportedModel:
    """Save a version, and read it with the project's current classes."""
    save_version(root, "r0001", **changes)
    return read_model(Registry(root), "r0001", classes)


def framed(images: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Frame images as Tightloop does."""
    size = (view.side_px, view.side_px)
    return np.stack([frame(Image.fromarray(image), view.framing, size) for image in images])
