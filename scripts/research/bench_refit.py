"""Measure what one answer costs between two trainings, by how many answers there are already.

One process does what the ranker's job does for an answer, on a database and a model folder as the
loop makes them. A stand-in answers for Label Studio and counts what that would send. Only the
consensus and the fit may take longer with more answers.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from backend.base.arrays import Embeddings, Labels
from backend.base.labeling import Annotation, Asked, NewTask
from backend.images.pool import LabeledSplit, Pool
from backend.labelstudio import task_data
from backend.measures.evaluation import evaluate
from backend.network import resnet
from backend.network.resnet_layout import HEAD_TENSORS
from backend.network.training import Recipe
from backend.queue.training_queue import Hints, TrainingQueue
from backend.rounds import rounds
from backend.rounds.loop import Loop
from backend.rounds.observe import observe, read_changes
from backend.store import pool_embeddings, project_db, version_probs
from backend.store.pool_embeddings import PoolEmbeddings
from backend.store.project_record import ProjectRecord, project_root, write_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.store.version_meta import Meta
from backend.store.version_weights import body_key
from scripts.research.counting_project import CountingProject, make_annotation

P = ParamSpec("P")
R = TypeVar("R")

SIZES = (1_000, 10_000, 100_000)
TRIES = 3
OPEN = 40
NEVER_ASKED = 2_000
VALIDATION, TEST = 2_000, 10_000
CLASSES = tuple(f"class {i}" for i in range(10))
CENTRES, SPREAD = 50, 2.5
IMAGE_SIZE = 64
PEOPLE = 5
CARELESS = 0.05  # of all answers, how many are anything
SECOND_OPINION_EVERY = 20  # answers
PICTURE = "data:image/png;base64," + "A" * 3200  # as large as a photo of 32 px
PROJECT = 1
FIRST = "r0001"
kB = 1000


@dataclass(frozen=True)
class Refit:
    """What one answer cost, from the look at the project to the new order."""

    reading_s: float  # of what changed
    consensus_s: float  # with the answers, as the database has them
    fit_s: float  # with reading embeddings and scoring the pool
    rest_s: float  # keeping, promoting, ordering, looking what is due
    written_kb: float  # database and small files, without the head's tensors; NaN: not on Linux
    scores_kb: float  # of the head's tensors, what it thinks of the pool
    tensors_kb: float  # all the others
    tasks_read: int
    read_kb: float  # JSON that Label Studio would have sent


def measure_refits(n_answers: int, n_images: int | None = None) -> Refit:
    """Return the best of TRIES answers, figure by figure, in a project with so many; of a pool of
    `n_images`, by default NEVER_ASKED more than there are answers.
    """
    with tempfile.TemporaryDirectory(prefix="tightloop-") as folder:
        loop, project = _make_project(Path(folder), n_answers, n_images or n_answers + NEVER_ASKED)
        # As the clock keeps it: else the last to close the database copies its log each time.
        with closing(project_db.connect(loop.root)), _frozen():
            tries = [_answer_one(loop, project) for _ in range(TRIES)]
    return Refit(**{name: min(getattr(t, name) for t in tries) for name in vars(tries[0])})


class _NoHints(TrainingQueue):
    """Nothing was said of any project, and no Redis is asked."""

    def __init__(self) -> None:
        pass

    def hints(self, project_id: int) -> Hints:  # noqa: ARG002
        return Hints()

    def annotated_since(self, project_id: int, moment: float) -> dict[str, float]:  # noqa: ARG002
        return {}


def _answer_one(loop: Loop, project: CountingProject) -> Refit:
    """Answer a task, and do what is due then as the ranker's job does, which opens all anew."""
    loop = replace(loop, pool=replace(loop.pool))  # nothing is cached
    observe_it = partial(observe, loop.root, _NoHints(), PROJECT)
    task_id = project.answer_next()
    project.tasks_read = project.bytes_read = 0
    written = _written_bytes()
    seconds: Counter[str] = Counter()
    with ExitStack() as timing:
        timing.enter_context(_timed(seconds, "consensus", rounds, "read_labels"))
        timing.enter_context(_timed(seconds, "consensus", ProjectStore, "annotations"))
        began = time.perf_counter()
        observe_it()
        reading_began = time.perf_counter()
        read_changes(project, loop.store)
        reading_s = time.perf_counter() - reading_began
        observe_it()
        meta = rounds.refit_head(loop)
        observe_it()
        total_s = time.perf_counter() - began
    assert meta is not None, "an answer is new"
    assert project.version == meta.version, "a head on random embeddings is no worse than the last"
    fit_s = sum(meta.seconds.values())
    tensors = {p.name: p.stat().st_size for p in (loop.root / meta.version).glob("*.safetensors")}
    scores = tensors.pop("pool.safetensors")
    written = _written_bytes() - written - scores - sum(tensors.values())
    project.age(task_id)
    return Refit(
        reading_s=reading_s,
        consensus_s=seconds["consensus"],
        fit_s=fit_s,
        rest_s=total_s - reading_s - seconds["consensus"] - fit_s,
        written_kb=written / kB,
        scores_kb=scores / kB,
        tensors_kb=sum(tensors.values()) / kB,
        tasks_read=project.tasks_read,
        read_kb=project.bytes_read / kB,
    )


def _make_project(folder: Path, n_answers: int, n_images: int) -> tuple[Loop, CountingProject]:
    """A project right after its first training, of random weights, which has learned all answers;
    and the stand-in for Label Studio that holds its tasks.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CENTRES, resnet.shapes()[HEAD_TENSORS[0]][1])).astype(np.float32)
    images, classes = _random_images(rng, centres, n_images)
    validation, validation_classes = _random_images(rng, centres, VALIDATION)
    test, test_classes = _random_images(rng, centres, TEST)
    root = project_root(folder, PROJECT)
    pool = _pool(folder, n_images, validation_classes, test_classes)
    _save_first(root, pool, PoolEmbeddings(images, validation, test), rng)
    project = _labeled_project(pool, classes, n_answers, rng)
    loop = Loop(
        root=root,
        project=project,
        pool=pool,
        weights="none",
        data_dir=folder,
        recipe=Recipe(image_size=IMAGE_SIZE),
        train="both",
        strategy="auto",
        overlap="auto",
        batch_size=20,
        rounds=0,
        keep_versions=0,
        is_blind=False,
        task_lock_s=3600,
        seed=0,
        device=torch.device("cpu"),
    )
    read_changes(project, loop.store)
    facts = loop.store.facts()
    learned = {a.annotation_id: a.digest for of_task in project.answers.values() for a in of_task}
    loop.store.record_learned(
        learned, time.time(), trained_at=time.time(), head_revision=facts.revision
    )
    return loop, project


def _random_images(
    rng: np.random.Generator, centres: Embeddings, count: int
) -> tuple[Embeddings, Labels]:
    """Embeddings of images around the centres, (images, width), and the class of each."""
    of = rng.integers(CENTRES, size=count)
    noise = rng.standard_normal((count, centres.shape[1]), np.float32)
    return (centres[of] + SPREAD * noise).astype(np.float16), of % len(CLASSES)


def _pool(folder: Path, n_images: int, validation: Labels, test: Labels) -> Pool:
    def pictures(count: int) -> NDArray[np.uint8]:
        return np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (count, 32, 32, 3))

    return Pool(
        name="bench",
        classes=CLASSES,
        image_ids=tuple(f"i{n}" for n in range(n_images)),
        images=pictures(n_images),
        validation=LabeledSplit(pictures(len(validation)), validation),
        test=LabeledSplit(pictures(len(test)), test),
        may_flip=True,
        notice="",
        folder=folder,
    )


def _save_first(
    root: Path, pool: Pool, embeddings: PoolEmbeddings, rng: np.random.Generator
) -> None:
    tensors = resnet.build(len(CLASSES), None, seed=0).state_dict()
    state = {name: tensor.numpy() for name, tensor in tensors.items()}
    key = body_key(state)
    record = ProjectRecord(
        project_id=PROJECT,
        title="bench",
        label_studio_url="http://127.0.0.1:9",
        project_created_at="",
        pool=pool.name,
        weights="none",
        seed=0,
        classes=CLASSES,
    )
    write_record(root, record)
    guesses, held_out = (
        rng.dirichlet(np.ones(len(CLASSES)), count).astype(np.float32)
        for count in (len(pool.image_ids), VALIDATION)
    )
    meta = Meta(
        version=FIRST,
        round=1,
        created_at="2026-01-01T00:00:00+00:00",
        parent=None,
        classes=CLASSES,
        image_size=IMAGE_SIZE,
        pool=pool.name,
        weights="none",
        strategy="auto",
        labels=0,
        labels_per_class={},
        labels_fingerprint="",
        left_out={},
        validation=evaluate(held_out, pool.validation.labels),
        test=None,
        refused=None,
        seconds={},
        torch=torch.__version__,
        device="cpu",
        body_key=key,
    )
    Registry(root).save(state, meta)
    version_probs.save_validation_probs(root, FIRST, pool.validation.labels, held_out)
    version_probs.save_pool_probs(root, FIRST, pool.image_ids, guesses)
    pool_embeddings.save_embeddings(
        root / "embeddings", key, IMAGE_SIZE, pool.image_ids, embeddings
    )
    Registry(root).promote(FIRST)


def _labeled_project(
    pool: Pool, classes: Labels, n_answers: int, rng: np.random.Generator
) -> CountingProject:
    """Tasks with so many answers together, a few of them second ones, and the open tasks."""
    said = np.where(
        rng.random(n_answers) < CARELESS,
        rng.integers(len(CLASSES), size=n_answers),
        classes[:n_answers],
    )
    probs = rng.dirichlet(np.ones(len(CLASSES)), n_answers + OPEN + TRIES)
    project = CountingProject(CLASSES)
    number = 0
    for row, of_image in enumerate(probs):
        answers: list[Annotation] = []
        is_second = row % SECOND_OPINION_EVERY == SECOND_OPINION_EVERY - 1
        for person in range(1 + is_second):
            if number < n_answers:
                number += 1
                who = (row + person) % PEOPLE + 1
                answers.append(make_annotation(number, row + 1, who, CLASSES[said[row]]))
        if not answers and len(project.open_ids) == OPEN + TRIES:
            break
        asked = Asked(pool.image_ids[row], 1, "margin", FIRST, 0.5, tuple(of_image.tolist()))
        data = task_data.write_asked(PICTURE, asked, None)
        project.add(row + 1, NewTask(asked.image_id, data), answers)
        project.truth[row + 1] = CLASSES[classes[row]]
    return project


@contextmanager
def _frozen() -> Iterator[None]:
    """Leave what there is out of garbage collections, as our workers do."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _timed(seconds: Counter[str], phase: str, owner: object, name: str) -> Iterator[None]:
    """Add up how long calls of a function take."""
    function = getattr(owner, name)
    with patch.object(owner, name, _adding(function, seconds, phase)):
        yield


def _adding(function: Callable[P, R], seconds: Counter[str], phase: str) -> Callable[P, R]:
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[phase] += time.perf_counter() - began  # type: ignore[assignment]

    return call


def _written_bytes() -> float:
    """How much this process has written so far; NaN if the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return float("nan")
    return float(dict(line.split(": ") for line in lines)["wchar"])
