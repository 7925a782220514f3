"""Provide a project of a folder with cats and dogs, whose tasks were read from Label Studio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from backend.base.labeling import Annotation, Asked, Task, TaskReading
from backend.base.settings import Settings
from backend.images.index import Index
from backend.images.pool import open_pool
from backend.images.validation_sample import KNOWN, Validation
from backend.results.label_rows import LabelReading, LabelRow, read_label_rows
from backend.results.label_sources import open_sources
from backend.store.finish_store import FinishImage, FinishStore, FinishTry
from backend.store.project_record import POOL_INDEX, ProjectRecord, project_root, write_record
from backend.store.project_store import ProjectStore

PROJECT = 7
ADA, BO, CY = 1, 2, 3
EMAILS = {ADA: "ada@example.org", BO: "bo@example.org", CY: "cy@example.org"}
NOWHERE = "http://127.0.0.1:9"  # nothing listens there


@dataclass
class Exporter:
    """A project with a folder as its pool."""

    settings: Settings
    project_id: int
    pool: Path
    ids: Mapping[str, str]  # by path below the pool's folder
    n_given: int = 0
    given: dict[str, list[Annotation]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return project_root(self.settings.model_dir, self.project_id)

    @property
    def store(self) -> ProjectStore:
        return ProjectStore(self.root)

    def annotate(self, path: str, label: str | None, by: int | None = ADA, **changes: Any) -> None:
        """Annotate an image at the next second of a day, as read from Label Studio."""
        self.n_given += 1
        image_id = self.ids.get(path, path)
        task_id = 100 + [*self.ids.values(), image_id].index(image_id)
        annotation = Annotation(
            annotation_id=self.n_given,
            task_id=task_id,
            image_id=image_id,
            annotator=by,
            label=label,
            was_skipped=changes.pop("was_skipped", False),
            updated_at=f"2026-01-01T00:00:{self.n_given:02d}.500000Z",
            **changes,
        )
        self.given.setdefault(image_id, []).append(annotation)
        task = Task(task_id, image_id, is_open=False, awaits_second_opinion=False)
        reading = TaskReading(task, "2026-01-01", tuple(self.given[image_id]), None)
        self.store.record_tasks([reading], 0.0)

    def ask(self, path: str, strategy: str = "margin", probs: Sequence[float] = (0.9, 0.1)) -> None:
        """Record that r0001 queried an image, with its probabilities of cat and dog."""
        asked = Asked(self.ids[path], 2, strategy, "r0001", 0.5, tuple(probs))
        self.store.record_asked([asked])

    def let_model_label(self, labels: Mapping[str, tuple[str, float]]) -> None:
        """Pass a try in which r0003 labels these images, each with its confidence."""
        begun = FinishTry(
            number=1,
            started_at=0.0,
            version="r0003",
            max_error=0.1,
            share=0.025,
            threshold=0.9,
            n_images=len(labels),
            n_sample=0,
            allowed_errors=0,
            n_unlabeled=len(labels),
        )
        images = [FinishImage(self.ids[path], *label) for path, label in labels.items()]
        FinishStore(self.root).begin(begun, images, [])
        FinishStore(self.root).end(1, "passed", 0, 1.0)

    def read(self) -> LabelReading:
        with open_sources(self.settings, self.root) as sources:
            return read_label_rows(sources)

    def row(self, path: str) -> LabelRow:
        """Return the only row of an image."""
        [row] = [row for row in self.read().rows if row.image == path]
        return row

    def images(self) -> list[str]:
        """Return the labeled images, sorted."""
        return sorted(row.image for row in self.read().rows)


def set_up(
    folder: Path,
    validation: Validation = KNOWN,
    label_studio: tuple[str, str] = (NOWHERE, "t"),
    **changes: Any,
) -> Exporter:
    """Set up a project of the images in `folder/pool`; `label_studio` is an address and a token."""
    url, token = label_studio
    settings = Settings.model_construct(
        model_dir=folder / "models",
        data_dir=folder / "data",
        label_studio_url=url,
        label_studio_api_key=SecretStr(token),
        overlap="1",
    )
    pool = folder / "pool"
    record = ProjectRecord(
        project_id=PROJECT,
        title="T",
        label_studio_url=url,
        project_created_at="2026",
        pool=str(pool),
        weights="none",
        seed=0,
        classes=("cat", "dog"),
        validation=validation.by,
        validation_labels=validation.n_labels or None,
    )
    record = record.model_copy(update=changes)
    root = project_root(settings.model_dir, record.project_id)
    write_record(root, record)
    open_pool(
        record.pool,
        settings.data_dir,
        seed=0,
        validation=validation,
        index=root / POOL_INDEX,
        classes=record.classes,
    )
    index = Index.read(root / POOL_INDEX) or Index.empty("digits")
    entries = index.entries(index.rows(index.image_ids.tolist()))
    ids = {entry.location: entry.image_id for entry in entries}
    exporter = Exporter(settings, record.project_id, pool, ids)
    exporter.store.record(emails=EMAILS, read_at=1_767_225_600.0)
    return exporter
