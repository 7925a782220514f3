"""Read the validation labels that annotators have given, without Label Studio and the pool."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from backend.people.validation_labels import ValidationProgress
from backend.store.project_store import ProjectStore


@dataclass(frozen=True)
class ValidationReading:
    """The validation labels so far, spelled as in the label config, and the progress."""

    labels: Mapping[str, str]  # by the id of the image that was queried
    progress: ValidationProgress


def read_validation(
    store: ProjectStore, classes: Collection[str], n_wanted: int
) -> ValidationReading:
    """Decide the validation labels from the annotations that were last read from Label Studio.

    `classes` are the label config's choices, and `n_wanted` is VALIDATION_LABELS.
    """
    raise NotImplementedError(store, classes, n_wanted)
