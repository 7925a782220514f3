"""The loop's surroundings: one project, and all that its rounds need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch

from backend import registry
from backend.device import find_device
from backend.errors import SettingsError
from backend.labelstudio import Annotation, LabelConfig, NewTask, Prediction, ProjectCounts, Task
from backend.pool import Pool, open_pool
from backend.progress import Progress
from backend.settings import OverlapName, Settings, TrainName
from backend.strategy_names import StrategyName
from backend.training import Recipe


class LabelingProject(Protocol):
    """Where people label; `backend.labelstudio.LabelingProject` is the real one."""

    def label_config(self) -> LabelConfig: ...
    def counts(self) -> ProjectCounts: ...
    def tasks(self) -> list[Task]: ...
    def open_tasks(self) -> list[Task]: ...
    def annotations(self, changed_after: datetime | None = None) -> dict[int, list[Annotation]]: ...
    def annotations_of(self, image_id: str) -> dict[int, list[Annotation]]: ...
    def add_ground_truth(self, task_id: int, label: str, annotator: int | None) -> None: ...
    def import_tasks(self, new_tasks: Sequence[NewTask]) -> int: ...
    def import_predictions(self, by_task_id: Mapping[int, Prediction]) -> int: ...
    def model_version(self) -> str: ...
    def switch_model_version(self, version: str) -> None: ...
    def model_versions(self) -> list[str]: ...
    def delete_predictions(self, version: str) -> None: ...
    def delete_tasks(self, task_ids: Sequence[int]) -> None: ...
    def ask_again(self, task_id: int, n_people: int) -> None: ...
    def people(self) -> dict[int, str]: ...
    def describe(self, text: str) -> bool: ...


@dataclass(frozen=True)
class Loop:
    """One project, and all that its rounds need."""

    root: Path  # its folder of model versions
    project: LabelingProject
    pool: Pool
    weights: str  # which pre-trained weights every training starts from
    data_dir: Path  # where those, and their embeddings, are cached
    recipe: Recipe
    train: TrainName
    strategy: StrategyName
    overlap: OverlapName
    batch_size: int
    rounds: int
    keep_versions: int  # how many full versions keep their weights; 0: all
    is_blind: bool
    task_lock_s: int
    seed: int
    device: torch.device

    @property
    def own_embeddings(self) -> Path:
        """Where those of the bodies that were trained here are kept."""
        return self.root / "embeddings"

    @property
    def shared_embeddings(self) -> Path:
        """Where those of pre-trained weights are kept, for all projects."""
        return self.data_dir / "embeddings"


@dataclass(frozen=True)
class LabeledImages:
    """What people said, ready to train on: rows of the pool with their classes."""

    image_ids: tuple[str, ...]
    classes: np.ndarray[Any, np.dtype[np.int64]]  # (images,), positions in the pool's classes
    weights: np.ndarray[Any, np.dtype[np.float32]]  # (images,), how much each counts
    left_out: dict[str, int]
    fingerprint: str


def open_loop(
    settings: Settings,
    project_id: int,
    project: LabelingProject,
    *,
    rescan: bool = True,
    progress: Progress = lambda *_: None,
) -> Loop:
    """Everything the rounds of a project need, with what its set-up chose; without `rescan` the
    pool as the last training found it.
    """
    root = registry.project_root(settings.model_dir, project_id)
    record = registry.read_record(root)
    if record is None:
        raise SettingsError(
            f"project {project_id} is not set up in {settings.model_dir}: "
            "run `python -m scripts.setup_project`"
        )
    return Loop(
        root=root,
        project=project,
        pool=open_pool(
            record.pool,
            settings.data_dir,
            seed=record.seed,
            rescan=rescan,
            max_pixels=settings.max_image_pixels,
            progress=progress,
        ),
        weights=record.weights,
        data_dir=settings.data_dir,
        recipe=Recipe(image_size=settings.image_size),
        train=settings.train,
        strategy=settings.strategy,
        overlap=settings.overlap,
        batch_size=settings.batch_size,
        rounds=settings.rounds,
        keep_versions=settings.keep_versions,
        is_blind=settings.blind,
        task_lock_s=settings.task_lock_s,
        seed=record.seed,
        device=find_device(settings.device),
    )


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Note how long the block took."""
    begin = perf_counter()
    yield
    seconds[phase] = round(perf_counter() - begin, 3)
