"""Open a project's pool, store, model versions and Label Studio connection for its rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from backend.base.classes import ClassList
from backend.base.errors import SettingsError
from backend.base.image_ids import image_id_of_task
from backend.base.labeling import LabelingProject, Task
from backend.base.progress import Progress
from backend.base.settings import OverlapName, Settings
from backend.base.strategy_names import StrategyName
from backend.images.framing import View
from backend.images.pool import Pool, open_pool
from backend.images.validation_sample import Validation
from backend.labelstudio.task_source import TaskSource
from backend.network.device import find_device
from backend.network.training import Recipe
from backend.rounds.classes import follow_classes
from backend.store import model_outputs
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED
from backend.store.files import lock
from backend.store.finish_store import FinishStore
from backend.store.place import Place
from backend.store.project_record import (
    POOL_INDEX,
    ProjectRecord,
    check_attached,
    project_root,
    read_record,
)
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry


@dataclass(frozen=True)
class Loop:
    """One project with everything that its rounds need."""

    settings: Settings
    root: Path  # the project's folder of model versions
    project: LabelingProject
    choices: tuple[str, ...]  # the classes that the label config offered when the job began
    pool: Pool
    weights: str  # the pre-trained weights; training starts from them until a body is adapted
    recipe: Recipe
    seed: int
    device: torch.device
    renamed_classes: tuple[tuple[str, str], ...] = ()  # former names and new names
    validation_labels: int = 0  # how many annotators provide; 0 if the labels are known
    recorded_strategy: StrategyName | None = None  # see `ProjectRecord`
    is_attached: bool = False  # whether the tasks belong to a team; we create and delete none

    @cached_property
    def store(self) -> ProjectStore:
        """Return the project's database."""
        return ProjectStore(self.root)

    @cached_property
    def finish_store(self) -> FinishStore:
        """Return the project's tries to have the model label the rest of the images."""
        return FinishStore(self.root)

    @cached_property
    def classes(self) -> ClassList:
        """Return all classes that the project has ever had. The pool's classes are its columns."""
        return ClassList(self.pool.classes, self.choices, self.renamed_classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the name of each column of probabilities, spelled as in the label config."""
        return self.classes.names

    @property
    def overlap(self) -> OverlapName:
        """Return how many annotators label each image."""
        return self.settings.overlap_in(is_attached=self.is_attached)

    @property
    def may_reopen(self) -> bool:
        """Return whether tasks may be reopened for other annotators."""
        return self.settings.may_reopen(is_attached=self.is_attached)

    @property
    def strategy(self) -> StrategyName:
        """Return the query strategy as of now."""
        is_finishing = self.finish_store.current() is not None
        return self.settings.strategy_in(self.recorded_strategy, is_finishing=is_finishing)

    def reserved_images(self) -> set[str]:
        """Return the images that the model has labeled, or will label if its labels are accepted.

        People are not asked about them, except about those in the acceptance sample.
        """
        return set(map(self.pool.canonical, self.finish_store.reserved()))

    def gone_images(self) -> set[str]:
        """Return the images whose tasks an attached project's team has deleted since the pool was
        last listed.
        """
        if not self.is_attached:
            return set()
        listed = {image_id_of_task(task.task_id) for task in self.store.listed_tasks()}
        return {*self.pool.image_ids, *self.pool.sample.image_ids} - listed

    @property
    def registry(self) -> Registry:
        """Return the model versions of the project."""
        return Registry(self.root)

    @property
    def has_pretrained_body(self) -> bool:
        """Return whether training starts from a body that has learned from images."""
        return self.weights != "none" or Bodies(self.root).usable_start().name != PRETRAINED

    @property
    def view(self) -> View:
        """Return how images are framed and resized for the next version."""
        return View(self.recipe.image_size)

    @property
    def own_embeddings(self) -> Place:
        """Return the folder for embeddings of bodies trained or adapted in this project."""
        return model_outputs.own_embeddings(self.root, self.settings.store)

    @property
    def shared_embeddings(self) -> Place:
        """Return the folder for embeddings of pre-trained weights, shared by all projects."""
        return model_outputs.shared_embeddings(self.settings.data_dir, self.settings.store)

    @property
    def cluster_place(self) -> Place:
        """Return the folder for training and adapting on a Ray cluster, shared with its workers."""
        return model_outputs.cluster_place(self.root, self.settings.store)


@dataclass(frozen=True)
class LabeledImages:
    """Labels in the form that training needs."""

    image_ids: tuple[str, ...]
    classes: np.ndarray[Any, np.dtype[np.int64]]  # (images,), positions in the pool's classes
    weights: np.ndarray[Any, np.dtype[np.float32]]  # (images,), the weight of each label
    left_out: dict[str, int]  # unusable annotations by reason
    fingerprint: str  # changes whenever the images, classes or weights change


def open_loop(
    settings: Settings,
    project_id: int,
    project: LabelingProject,
    *,
    is_for_training: bool = False,
    progress: Progress = lambda *_: None,
) -> Loop:
    """Gather everything that a project's rounds need.

    The pool and the weights were chosen during set-up. The pool contains all images that have been
    decoded or queried. For training, it also contains all held-out images, so that every version is
    validated on the same images.

    An attached project's pool is listed again if its tasks have changed. Annotated images that are
    not decoded yet are decoded only for training, so that fetching them does not delay a batch.
    """
    root = project_root(settings.model_dir, project_id)
    record = read_record(root)
    if record is None:
        raise SettingsError(
            f"project {project_id} is not set up in {settings.model_dir}: "
            "run `python -m scripts.setup_project`"
        )
    store = ProjectStore(root)
    facts = store.facts()
    pool = open_pool(
        record.pool,
        settings.data_dir,
        seed=record.seed,
        validation=_validation(record, store),
        index=root / POOL_INDEX,
        source=TaskSource(settings, project_id) if record.is_attached else None,
        classes=record.classes,
        image_size=record.image_size if settings.image_size == "auto" else settings.image_size,
        rescan=facts.tasks_revision != facts.listed_revision and bool(facts.full_read_at),
        budget_s=0.0,
        needs_held_out=is_for_training,
        needed=_needed(store.tasks(), has_all=is_for_training or not record.is_attached),
        image_hosts=settings.image_hosts,
        max_pixels=settings.max_image_pixels,
        progress=progress,
    )
    # Read the label config only now, because fetching images may take minutes.
    choices = project.label_config().choices
    record = follow_classes(root, choices) or record
    return Loop(
        settings=settings,
        root=root,
        project=project,
        choices=choices,
        pool=_with_classes(pool, record.offering(choices)),
        weights=record.weights,
        recipe=Recipe(image_size=pool.image_size),
        seed=record.seed,
        device=find_device(settings.device),
        renamed_classes=record.renamed_classes,
        validation_labels=record.wanted_validation_labels,
        recorded_strategy=record.strategy,
        is_attached=record.is_attached,
    )


def _needed(tasks: Sequence[Task], *, has_all: bool) -> list[str]:
    """Return the images of queried tasks; without `has_all`, only those of open tasks."""
    return [task.image_id for task in tasks if has_all or task.is_open]


def _with_classes(pool: Pool, classes: ClassList) -> Pool:
    """Return the pool with current classes as its held-out labels.

    Held-out images of removed classes are left out.
    """
    validation, test = (split.relabel(classes.targets) for split in (pool.validation, pool.test))
    return replace(pool, classes=classes.columns, validation=validation, test=test)


def _validation(record: ProjectRecord, store: ProjectStore) -> Validation:
    """Return how validation images are chosen if the pool is listed for the first time.

    In an attached project, the images that the team annotated without being asked are not chosen,
    because they are used for training.
    """
    exempt = frozenset[str]()
    if record.is_attached:
        of_sample = {task.image_id for task in store.validation_tasks()}
        exempt = frozenset(store.annotated_images() - of_sample)
    return replace(record.chosen_validation, exempt=exempt)


@contextmanager
def push_lock(loop: Loop) -> Iterator[None]:
    """Hold the lock that is required to change the project in Label Studio.

    Raises DetachedError if the project has been detached since the loop was opened, because a job
    that is still running must not change anything there.
    """
    with lock(loop.root, "push"):
        check_attached(loop.root)
        yield


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Record how many seconds the `with` block took."""
    begin = perf_counter()
    yield
    seconds[phase] = round(perf_counter() - begin, 3)
