"""Gather everything that a project's labels are derived from, as of one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from backend.base.errors import SettingsError
from backend.base.image_ids import image_id_of_task
from backend.base.settings import Settings
from backend.images.catalog import Catalog, open_catalog
from backend.store import project_db
from backend.store.finish_store import FinishStore
from backend.store.project_record import POOL_INDEX, ProjectRecord, read_record
from backend.store.project_store import ProjectStore


@dataclass(frozen=True)
class LabelSources:
    """A project's record, its pool, and a copy of its database."""

    settings: Settings
    root: Path
    record: ProjectRecord
    store: ProjectStore  # a copy that no process changes
    finish: FinishStore  # the same copy
    catalog: Catalog
    emails: Mapping[int, str]  # of people in Label Studio


@contextmanager
def open_sources(settings: Settings, root: Path) -> Iterator[LabelSources]:
    """Copy a project's database, so that people can keep labeling; delete the copy afterward.

    Nothing is read from Label Studio. Raises SettingsError if the project is not set up. Also
    raises PoolError and ModelFolderError.
    """
    record = read_record(root)
    if record is None:
        raise SettingsError(f"{root} is not the folder of a project: check MODEL_DIR")
    with TemporaryDirectory(prefix="tightloop-labels-") as folder:
        project_db.copy(root, Path(folder))
        store = ProjectStore(Path(folder))
        catalog = open_catalog(
            record.pool,
            settings.data_dir,
            root / POOL_INDEX,
            seed=record.seed,
            validation=record.chosen_validation,
        )
        if record.is_attached:  # the pool's index may not have the newest tasks yet
            tasks = store.listed_tasks()
            locations = {image_id_of_task(t.task_id): f"{t.task_id} {t.address}" for t in tasks}
            catalog = catalog.with_images(locations)
        yield LabelSources(
            settings=settings,
            root=root,
            record=record,
            store=store,
            finish=FinishStore(Path(folder)),
            catalog=catalog,
            emails=store.facts().emails,
        )
