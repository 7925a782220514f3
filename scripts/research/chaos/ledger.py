"""Record what Label Studio has acknowledged, in a file that no fault can reach."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """An acknowledged annotation."""

    annotation_id: int
    task_id: int
    image_id: str
    annotator: int
    # All labels that the annotation may have now; None = skipped. Two labels are possible after an
    # edit whose response never came.
    labels: tuple[str | None, ...]
    may_be_deleted: bool = False


class Ledger:
    """The annotations that must exist. Every change is on the disk before a method returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._entries: dict[int, Entry] = {}
        self._unclear: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self.last_at = time.monotonic()  # when the last change was acknowledged

    def record_annotation(
        self, annotation_id: int, task_id: int, image_id: str, annotator: int, label: str | None
    ) -> None:
        """Record an acknowledged annotation, or an acknowledged skip if `label` is None."""
        entry = Entry(annotation_id, task_id, image_id, annotator, (label,))
        with self._lock:
            self._entries[annotation_id] = entry
            self.last_at = time.monotonic()
            self._write("annotation", **vars(entry))

    def record_edit(self, annotation_id: int, label: str, *, is_clear: bool = True) -> None:
        """Record an edit. If its response never came, the earlier labels also remain possible."""
        with self._lock:
            before = self._entries[annotation_id]
            labels = (label,) if is_clear else (*before.labels, label)
            self._entries[annotation_id] = replace(before, labels=labels)
            self.last_at = time.monotonic()
            self._write("edit", annotation_id=annotation_id, labels=labels)

    def record_unclear(self, task_id: int, annotator: int) -> None:
        """Record that the response to a submitted annotation never came."""
        with self._lock:
            self._unclear.append((task_id, annotator))
            self._write("unclear", task_id=task_id, annotator=annotator)

    def expect_deleted(self, annotation_ids: Iterable[int]) -> None:
        """Record, before the request, that annotations may be deleted from now on."""
        with self._lock:
            ids = [i for i in annotation_ids if i in self._entries]
            for annotation_id in ids:
                entry = self._entries[annotation_id]
                self._entries[annotation_id] = replace(entry, may_be_deleted=True)
            self._write("deletion", annotation_ids=ids)

    def entries(self) -> dict[int, Entry]:
        """Return all acknowledged annotations by id."""
        with self._lock:
            return dict(self._entries)

    def unclear(self) -> list[tuple[int, int]]:
        """Return the task and the annotator of each annotation whose response never came."""
        with self._lock:
            return list(self._unclear)

    def _write(self, event: str, **fields: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"at": time.time(), "event": event, **fields}) + "\n")
            file.flush()
            os.fsync(file.fileno())
