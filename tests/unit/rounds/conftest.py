"""A loop over digits, with an oracle in place of Label Studio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from backend.base.labeling import Annotation, Asked, NewTask, Task, TaskReading
from backend.base.settings import Settings
from backend.images.known_labels import seed_labels, true_labels
from backend.images.pool import Pool, open_pool
from backend.images.splits import NO_IMAGES, LabeledSplit, Split
from backend.network.training import Recipe
from backend.rounds import batches, fine_tuning, observe, rounds
from backend.rounds.annotators import annotator_figures
from backend.rounds.labels import LabelReading, read_labels
from backend.rounds.loop import Loop
from backend.store.project_record import (
    FormerSettings,
    ProjectRecord,
    project_root,
    write_record,
)
from backend.store.project_rows import AnnotatorFigures
from backend.store.version_meta import Meta
from scripts.research.oracle import OracleProject
from tests.unit.rounds.remembered_training import RememberedTraining

FAST = Recipe(image_size=32, batch_size=16, min_steps=12, epochs=1)
NAMES = ("Cat", "Dog", "Frog")  # the project's spellings
PEOPLE = {1: "Ada", 2: "Bo", 3: "Cy"}
SURELY_CAT = (0.9, 0.08, 0.02)
PERHAPS_DOG = (0.3, 0.6, 0.1)
BOTH = ((1, "Cat"), (2, "Dog"))  # two annotators who disagree


def quiet(*_: object) -> None:
    """No progress."""


@pytest.fixture(scope="package", autouse=True)
def _remembered_training() -> Iterator[None]:
    """Most tests train their first version on the same labels: train it once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tuning, "train", RememberedTraining())
        yield


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A fifth of the digits: enough to learn something in a second."""
    whole = open_pool("digits", tmp_path_factory.mktemp("data"), seed=0)
    return replace(
        whole,
        image_ids=whole.image_ids[:250],
        images=whole.images[:250],
        test=LabeledSplit(
            whole.test.image_ids[:60], whole.test.images[:60], whole.test.labels[:60]
        ),
    )


@pytest.fixture
def project(pool: Pool) -> OracleProject:
    return OracleProject(pool.classes)


@pytest.fixture
def loop(tmp_path: Path, pool: Pool, project: OracleProject) -> Loop:
    return Loop(
        settings=Settings.model_construct(
            data_dir=tmp_path, overlap="1", batch_size=10, keep_versions=0
        ),
        root=project_root(tmp_path, 1),
        project=project,
        choices=pool.classes,
        pool=pool,
        weights="none",
        recipe=FAST,
        seed=0,
        device=torch.device("cpu"),
    )


@pytest.fixture
def sampled(loop: Loop) -> Loop:
    """The loop with its last 40 images as the validation sample; 30 labels are wanted."""
    pool = loop.pool
    return replace(
        loop,
        validation_labels=30,
        pool=replace(
            pool,
            image_ids=pool.image_ids[:-40],
            images=pool.images[:-40],
            validation=NO_IMAGES.select({}),
            sample=Split(pool.image_ids[-40:], pool.images[-40:]),
            validated_by="people",
        ),
    )


OF_THE_TEAM = ("import_tasks", "delete_tasks", "delete_annotation", "reopen", "upload")


class TeamProject(OracleProject):
    """A project with one task per image before Tightloop is attached; its tasks are not ours."""

    def __init__(self, choices: tuple[str, ...], n_tasks: int) -> None:
        super().__init__(choices)
        self.import_tasks([NewTask(f"ls-{i}", {}) for i in range(1, n_tasks + 1)])
        vars(self).update(dict.fromkeys(OF_THE_TEAM, self.refuse))

    def read_tasks(self, changed_after: datetime | None = None) -> Iterator[TaskReading]:
        for found in super().read_tasks(changed_after):
            yield replace(found, address=f"/data/upload/{found.task.task_id}.png")

    def predicted(self, version: str) -> list[int]:
        """Return the tasks that have a prediction of a version, in the order served."""
        found = [(p[version].score, i) for i, p in self.predictions.items() if version in p]
        return [task_id for _, task_id in sorted(found)]

    def delete_by_team(self, task_id: int) -> None:
        del self.by_task[task_id], self.predictions[task_id]
        self.answers.pop(task_id, None)

    def refuse(self, *_: object) -> NoReturn:
        raise AssertionError("this changes what belongs to the team")


@pytest.fixture
def attached(sampled: Loop) -> Loop:
    """The loop attached to a project with a task for each image; OVERLAP is not set."""
    pool = sampled.pool
    n_others = len(pool.image_ids)
    n_tasks = n_others + len(pool.sample.image_ids)
    ids = tuple(f"ls-{i}" for i in range(1, n_tasks + 1))
    sample = Split(ids[n_others:], pool.sample.images)
    write_record(sampled.root, attached_record(pool.classes))
    return replace(
        sampled,
        settings=Settings.model_construct(
            data_dir=sampled.settings.data_dir, batch_size=10, keep_versions=0
        ),
        project=TeamProject(pool.classes, n_tasks),
        pool=replace(pool, image_ids=ids[:n_others], sample=sample),
        is_attached=True,
    )


def attached_record(classes: tuple[str, ...]) -> ProjectRecord:
    return ProjectRecord(
        project_id=12,
        title="Birds",
        label_studio_url="http://127.0.0.1:9",
        project_created_at="2026",
        pool="http://127.0.0.1:9/projects/12",
        weights="none",
        seed=0,
        classes=classes,
        validation="people",
        attached=FormerSettings(
            sampling=None, model_version="", show_collab_predictions=True, description=None
        ),
    )


def team_of(loop: Loop) -> TeamProject:
    assert isinstance(loop.project, TeamProject)
    return loop.project


def with_settings(loop: Loop, **changes: object) -> Loop:
    return replace(loop, settings=loop.settings.model_copy(update=changes))


def with_sample(loop: Loop, sample: Split, labels: Mapping[str, int]) -> Loop:
    """Return a loop that is validated by annotators, who have labeled a part of the sample."""
    pool = replace(
        loop.pool, sample=sample, validation=sample.select(labels), validated_by="people"
    )
    return replace(loop, pool=pool, validation_labels=40)


def seed(loop: Loop, project: OracleProject, count: int = 40) -> None:
    project.import_tasks(
        [
            NewTask(image_id, {"image_id": image_id}, prediction=None, label=label)
            for image_id, label in seed_labels(loop.pool, count, 0).items()
        ]
    )


def asked(project: OracleProject, version: str) -> list[str]:
    return [
        task.image_id
        for task in project.by_task.values()
        if task.data.get("asked_version") == version and task.label is None
    ]


def train(loop: Loop, *, is_forced: bool = False) -> Meta:
    meta = rounds.train_round(loop, is_forced=is_forced, progress=quiet)
    assert meta is not None
    return meta


def ask_and_annotate(loop: Loop, project: OracleProject, count: int = 10) -> None:
    """Ask and annotate one more batch."""
    batches.top_up(with_settings(loop, batch_size=project.counts().open + count))
    project.answer_open_tasks(true_labels(loop.pool))


def read_and_refit(loop: Loop) -> Meta | None:
    """Read the annotations, then fit a head, as the ranker does."""
    observe.read_changes(loop.project, loop.store)
    return rounds.refit_head(loop)


def refit(loop: Loop) -> Meta:
    meta = read_and_refit(loop)
    assert meta is not None
    return meta


def annotate_as(project: OracleProject, person: int, labels: Mapping[str, str]) -> int:
    """Annotate the tasks that Label Studio would serve this annotator; return their number."""
    served = [
        task
        for task in project.open_tasks()
        if person not in {a.annotator for a in project.answers.get(task.task_id, ())}
    ]
    for task in served:
        project.answer(task.task_id, labels[task.image_id], annotator=person)
    return len(served)


@pytest.fixture
def animals(loop: Loop, pool: Pool) -> Loop:
    """A pool of the images a to u of three classes, without pre-trained weights."""
    return replace(
        loop,
        project=OracleProject(NAMES),
        choices=NAMES,
        pool=replace(
            pool,
            classes=("cat", "dog", "frog"),
            image_ids=tuple("abcdefghijklmnopqrstu"),
            images=pool.images[:21],
        ),
    )


def annotation(
    image_id: str, label: str | None, by: int | None = 1, at: int = 1, **changes: Any
) -> Annotation:
    """Return an annotation by annotator `by` that was updated at second `at`."""
    return Annotation(
        annotation_id=0,
        task_id=ord(image_id),
        image_id=image_id,
        annotator=by,
        label=label,
        was_skipped=changes.pop("was_skipped", False),
        updated_at=f"2026-01-01T00:00:{at:02d}.000000Z",
        **changes,
    )


def ask(loop: Loop, image_ids: Iterable[str], probs: tuple[float, ...]) -> None:
    """Record images as asked by a version with these probabilities."""
    asked = [Asked(i, round=1, strategy="margin", version="r0001", probs=probs) for i in image_ids]
    loop.store.record_asked(asked)
    tasks = [
        Task(
            loop.pool.image_ids.index(a.image_id),
            a.image_id,
            is_open=True,
            awaits_second_opinion=False,
        )
        for a in asked
    ]
    loop.store.record_tasks([TaskReading(task, "2026-01-01", (), None) for task in tasks], 0.0)


def by_task(given: tuple[Annotation, ...]) -> dict[int, list[Annotation]]:
    found = defaultdict(list)
    for annotation in given:
        found[annotation.task_id].append(annotation)
    return found


def read(loop: Loop, *given: Annotation) -> LabelReading:
    return read_labels(loop, by_task(given))


def figures(loop: Loop, *given: Annotation) -> dict[str, AnnotatorFigures]:
    rows = annotator_figures(by_task(given), read(loop, *given), NAMES, PEOPLE)
    return {row.name: row for row in rows}
