"""Follow the classes of a project's label config, and report annotations of other classes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backend.base.classes import ClassList, append_new, fold
from backend.base.labeling import Annotation
from backend.store.project_record import ProjectRecord, change_record
from backend.store.project_store import ProjectStore

log = logging.getLogger(__name__)

SAME_VALIDATION = "The validation images stay the same, and may include none of the new class."


def follow_classes(root: Path, choices: Sequence[str]) -> ProjectRecord | None:
    """Record which classes joined and left the label config; return the project's record.

    Returns None if the project is not set up.
    """
    offered = {*map(fold, choices)}

    def follow(record: ProjectRecord) -> ProjectRecord:
        classes = append_new(record.classes, choices)
        removed = tuple(name for name in classes if fold(name) not in offered)
        return record.model_copy(update={"classes": classes, "removed_classes": removed})

    return _change_classes(root, follow)


def rename_classes(root: Path, names: Sequence[tuple[str, str]]) -> ProjectRecord | None:
    """Record former and new names, so that annotations with a former name count for the new name.

    If a former name was recorded before, its new name is replaced.
    """
    former = {fold(old) for old, _ in names}

    def rename(record: ProjectRecord) -> ProjectRecord:
        kept = [pair for pair in record.renamed_classes if fold(pair[0]) not in former]
        return record.model_copy(update={"renamed_classes": (*kept, *names)})

    return _change_classes(root, rename)


def _change_classes(
    root: Path, change: Callable[[ProjectRecord], ProjectRecord]
) -> ProjectRecord | None:
    """Change a project's classes, log what has changed, and have a head fitted to the labels.

    A training run is requested only if annotations that were left out before can now be used. They
    are not new annotations, so they would not start a training run.
    """
    seen: list[ProjectRecord] = []

    def change_once(record: ProjectRecord) -> ProjectRecord:
        seen[:] = [record]
        return change(record)

    record = change_record(root, change_once)
    if record is None or [record] == seen:
        return record
    [before], store = seen, ProjectStore(root)
    store.record_new_classes()
    counts = store.label_counts()
    was_left_out = (before.class_list.spell(label) is None for label in counts)
    is_used = (record.class_list.spell(label) is not None for label in counts)
    if any(map(all, zip(was_left_out, is_used, strict=True))):
        store.record(train_asked_at=time.time())
    for line in (*_describe_changes(before, record), *left_out_notices(record, counts)):
        log.warning("project %d: %s", record.project_id, line)
    return record


def left_out_notices(record: ProjectRecord, label_counts: Mapping[str, int]) -> list[str]:
    """Return a sentence, with a remedy, for every label that is not a current class."""
    classes = record.class_list
    return [
        f'{count:,} annotation{"s" if count > 1 else ""} of the class "{label}", which the label '
        "config does not offer, cannot be used. If the class was renamed, run "
        f'`python -m scripts.setup_project --title "{record.title}" '
        f'--rename "{label}=<new name>"`. To use the annotations as they are, add the class to the '
        "label config again."
        for label, count in label_counts.items()
        if classes.spell(label) is None
    ]


def pool_class_notice(record: ProjectRecord, found: Collection[str]) -> str:
    """Return a sentence about classes in the pool that annotators cannot choose, or ""."""
    known = {*map(fold, record.classes)}
    new = sorted(name for name in found if fold(name) not in known)
    if not new:
        return ""
    how = (
        "add the same name to the Choices of the label config"
        if record.label_config == "own"
        else f'run `python -m scripts.setup_project --title "{record.title}"` to extend the '
        "label config"
    )
    return (
        f"The pool has images of {_quote(new)}, which annotators cannot choose yet: {how}. "
        f"{SAME_VALIDATION}"
    )


def current_labels(
    annotations: Mapping[int, Sequence[Annotation]], classes: ClassList
) -> dict[int, list[Annotation]]:
    """Return the annotations with the names of current classes as labels.

    A label that refers to none of the current classes becomes None.
    """
    return {
        task_id: [
            replace(a, label=None if a.label is None else classes.spell(a.label)) for a in of_task
        ]
        for task_id, of_task in annotations.items()
    }


def _describe_changes(before: ProjectRecord, after: ProjectRecord) -> list[str]:
    """Describe how a project's classes have changed, one sentence per change."""
    new = after.classes[len(before.classes) :]
    lost = [name for name in after.removed_classes if name not in before.removed_classes]
    back = [name for name in before.removed_classes if name not in after.removed_classes]
    sentences = {
        "The label config has new classes ({}); the next head learns them.": new,
        "The label config no longer offers {}; the model stops predicting removed classes.": lost,
        "The label config offers {} again.": back,
    }
    lines = [text.format(_quote(names)) for text, names in sentences.items() if names]
    renamed = [pair for pair in after.renamed_classes if pair not in before.renamed_classes]
    return lines + [f'Annotations of "{old}" now count for "{name}".' for old, name in renamed]


def _quote(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
