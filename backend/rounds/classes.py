"""Follow the classes of a project's label config, and say which annotations no class includes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backend.base.classes import ClassList, append_new, fold
from backend.base.labeling import Annotation
from backend.store.project_record import ProjectRecord, change_record
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)


def follow_classes(root: Path, choices: Sequence[str]) -> ProjectRecord | None:
    """Record which classes the label config has gained and lost; return the project's record.

    Returns None if the project is not set up.
    """
    offered = {*map(fold, choices)}
    changes: list[str] = []

    def follow(record: ProjectRecord) -> ProjectRecord:
        classes = append_new(record.classes, choices)
        removed = tuple(name for name in classes if fold(name) not in offered)
        changes.extend(_describe_changes(record, classes, removed))
        return record.model_copy(update={"classes": classes, "removed_classes": removed})

    record = change_record(root, follow)
    if record is not None and changes:
        store = ProjectStore(root)
        store.record_new_classes()
        for change in (*changes, *left_out_notices(record, store.label_counts())):
            log.warning("project %d: %s", record.project_id, change)
    return record


def left_out_notices(record: ProjectRecord, label_counts: Mapping[str, int]) -> list[str]:
    """Return a sentence with the remedy for every label that means none of the current classes."""
    classes = record.class_list
    return [
        f'{count:,} annotation{"s" if count > 1 else ""} of the class "{label}", which the label '
        "config does not offer, cannot be used. If the class was renamed, run "
        f'`python -m scripts.setup_project --title "{record.title}" '
        f'--rename "{label}=<new name>"`; otherwise, add it to the label config again.'
        for label, count in label_counts.items()
        if classes.spell(label) is None
    ]


def pool_class_notice(record: ProjectRecord, found: Collection[str]) -> str:
    """Return a sentence about classes of the pool that annotators cannot choose, or ""."""
    known = {*map(fold, record.classes)}
    new = sorted(name for name in found if fold(name) not in known)
    if not new:
        return ""
    how = (
        "add the same name to the Choices of the label config"
        if record.label_config == "own"
        else f'run `python -m scripts.setup_project --title "{record.title}"`, which adds it'
    )
    return (
        f"The pool has images of {_quote(new)}, which annotators cannot choose yet: {how}. "
        "The validation images do not change, so they may contain none of the new class."
    )


def current_labels(
    annotations: Mapping[int, Sequence[Annotation]], classes: ClassList
) -> dict[int, list[Annotation]]:
    """Return the annotations with the names of current classes as labels.

    A label that means none of the current classes becomes None.
    """
    return {
        task_id: [
            replace(a, label=None if a.label is None else classes.spell(a.label)) for a in of_task
        ]
        for task_id, of_task in annotations.items()
    }


def _describe_changes(
    before: ProjectRecord, classes: Sequence[str], removed: Collection[str]
) -> list[str]:
    """Describe how the label config differs from what was recorded, one sentence per change."""
    lost = [name for name in removed if name not in before.removed_classes]
    back = [name for name in before.removed_classes if name not in removed]
    sentences = {
        "The label config has new classes ({}); the next head learns them.": classes[
            len(before.classes) :
        ],
        "The label config no longer offers {}; the model stops predicting it.": lost,
        "The label config offers {} again.": back,
    }
    return [text.format(_quote(names)) for text, names in sentences.items() if names]


def _quote(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
