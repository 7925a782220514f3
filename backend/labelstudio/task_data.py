"""Write and read the data of our tasks in Label Studio; only this module uses its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from backend.asking.acquisition import ACQUISITIONS
from backend.base.labeling import VALIDATION, Asked

IMAGE = "image"
SEED = "seed"  # the strategy recorded for a task that came with the data set's label


def write_asked(image: str, asked: Asked, hint: str | None) -> dict[str, Any]:
    """Return the data of a task that asks for a label.

    If there is no hint, omit the numbers that would reveal the model's guess.
    """
    data: dict[str, Any] = {
        IMAGE: image,
        "image_id": asked.image_id,
        "asked_round": asked.round,
        "asked_by": asked.strategy,
        "asked_version": asked.version,
    }
    if hint is not None:
        data["hint"] = hint
    if not asked.probs:
        return data
    data["asked_probs"] = [round(p, 5) for p in asked.probs]
    if hint is not None:
        probs = np.array([asked.probs], np.float32)
        data["asked_confidence"] = round(max(asked.probs), 5)
        data["asked_margin"] = round(float(ACQUISITIONS["margin"](probs)[0]), 5)
        data["asked_entropy"] = round(float(ACQUISITIONS["entropy"](probs)[0]), 5)
    return data


def write_seed(image: str, image_id: str, hint: str | None) -> dict[str, Any]:
    """Return the data of a task that comes with the data set's label."""
    data = {IMAGE: image, "image_id": image_id, "asked_round": 0, "asked_by": SEED}
    return data if hint is None else {**data, "hint": hint}


def write_imported(image: str, image_id: str, hint: str | None) -> dict[str, Any]:
    """Return the data of a task that comes with labels that annotators gave elsewhere."""
    data = {IMAGE: image, "image_id": image_id}
    return data if hint is None else {**data, "hint": hint}


def write_review(image: str, image_id: str, label: str, reason: str) -> dict[str, Any]:
    """Return the data of a task that asks for a review of a doubtful label."""
    return {IMAGE: image, "image_id": image_id, "review_label": label, "review_reason": reason}


def read_image_id(data: object) -> str:
    """Return the id of the task's image, or "" if Tightloop did not create the task."""
    return str(_fields(data).get("image_id") or "")


def is_seed(data: object) -> bool:
    """Return whether a task was created with the data set's label."""
    return _fields(data).get("asked_by") == SEED


def is_validation(data: object) -> bool:
    """Return whether a task asks for a validation label, without a guess."""
    return _fields(data).get("asked_by") == VALIDATION


def read_asked(data: object) -> Asked | None:
    """Return the record of how a task was queried, or None if it is missing or invalid.

    The record may be invalid because users can edit a task's data.
    """
    fields = _fields(data)
    image_id = read_image_id(data)
    probs = _read_probs(fields.get("asked_probs"))
    if not image_id or is_seed(data) or not ("asked_by" in fields or probs):
        return None
    round_ = fields.get("asked_round")
    return Asked(
        image_id=image_id,
        round=round_ if type(round_) is int and 0 <= round_ < 10**9 else 0,
        strategy=str(fields.get("asked_by") or ""),
        version=str(fields.get("asked_version") or ""),
        probs=probs,
    )


def _fields(data: object) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}


def _read_probs(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(type(p) in (int, float) for p in value):
        return ()
    is_sound = all(0 <= p <= 1 for p in value) and abs(sum(value) - 1) < 0.01
    return tuple(map(float, value)) if is_sound else ()
