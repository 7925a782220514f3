"""Create a project whose only version has random weights, as if set-up and training had run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backend.base.arrays import Embeddings, Labels, Probs
from backend.base.labeling import Annotation, Asked, NewTask
from backend.base.settings import Settings
from backend.images.pool import Pool
from backend.images.splits import LabeledSplit
from backend.labelstudio import task_data
from backend.measures.evaluation import Evaluation
from backend.network import resnet
from backend.network.resnet_layout import HEAD_TENSORS, resnet18
from backend.network.training import Recipe
from backend.rounds.loop import Loop
from backend.rounds.observe import read_changes
from backend.store import model_outputs
from backend.store.model_outputs import embeddings_store
from backend.store.project_record import ProjectRecord, project_root, write_record
from backend.store.registry import Registry
from backend.store.tensor_file import body_key
from backend.store.version_meta import Meta
from scripts.research.oracle import CountingProject, make_annotation

CLASSES = tuple(f"class {i}" for i in range(10))
PROJECT, FIRST = 1, "r0001"
LABEL_STUDIO_URL = "http://127.0.0.1:9"  # nothing listens there
VALIDATION, TEST = 2_000, 10_000
CENTERS, SPREAD = 50, 2.5
IMAGE_SIZE, ANNOTATORS = 64, 5
CARELESS = 0.05  # the share of annotations with a random class
SECOND_OPINION_EVERY = 20  # images
PICTURE = "data:image/png;base64," + "A" * 3200  # the size of a 32 px photo


def save_random_project(
    root: Path, image_ids: Sequence[str], image_size: int, rng: np.random.Generator
) -> str:
    """Write a project's record, and a version with scores for the pool; return the body's key."""
    tensors = resnet.build(len(CLASSES), None, seed=0).state_dict()
    state = {name: tensor.numpy() for name, tensor in tensors.items()}
    key = body_key(state)
    record = ProjectRecord(
        project_id=PROJECT,
        title="bench",
        label_studio_url=LABEL_STUDIO_URL,
        project_created_at="",
        pool="",
        weights="none",
        seed=0,
        classes=CLASSES,
    )
    meta = Meta(
        version=FIRST,
        round=1,
        created_at="2026-01-01T00:00:00+00:00",
        parent=None,
        classes=CLASSES,
        image_size=image_size,
        framing="whole",
        pool="",
        weights="none",
        strategy="",
        labels=0,
        labels_per_class={},
        labels_fingerprint="",
        left_out={},
        validation=Evaluation(accuracy=0.1, log_loss=2.3, images=1),
        test=None,
        refused=None,
        seconds={},
        torch=torch.__version__,
        device="cpu",
        body_key=key,
    )
    write_record(root, record)
    Registry(root).save(state, meta)
    model_outputs.save_pool_probs(root, FIRST, image_ids, random_probs(rng, len(image_ids)))
    Registry(root).promote(FIRST)
    return key


def random_probs(rng: np.random.Generator, count: int) -> Probs:
    """Return class probabilities of images, (images, classes)."""
    return rng.dirichlet(np.ones(len(CLASSES)), count).astype(np.float32)


def make_annotated_project(
    folder: Path, n_annotations: int, n_images: int, n_open: int
) -> tuple[Loop, CountingProject]:
    """Return a loop that has learned all annotations, and the substitute for Label Studio.

    The model has random weights; its embeddings lie around a few centers per class.
    """
    rng = np.random.default_rng(0)
    width = resnet18(len(CLASSES))[HEAD_TENSORS[0]].shape[1]
    centers = rng.normal(size=(CENTERS, width)).astype(np.float32)
    images, classes = _random_images(rng, centers, n_images)
    validation, validation_classes = _random_images(rng, centers, VALIDATION)
    test, test_classes = _random_images(rng, centers, TEST)
    pool = Pool(
        name="bench",
        classes=CLASSES,
        image_ids=tuple(f"i{n}" for n in range(n_images)),
        images=_pictures(n_images),
        validation=LabeledSplit(
            tuple(f"v{n}" for n in range(VALIDATION)), _pictures(VALIDATION), validation_classes
        ),
        test=LabeledSplit(tuple(f"t{n}" for n in range(TEST)), _pictures(TEST), test_classes),
        may_flip=True,
        notice="",
        folder=folder,
        image_size=IMAGE_SIZE,
    )
    root = project_root(folder, PROJECT)
    key = save_random_project(root, pool.image_ids, IMAGE_SIZE, rng)
    held_out = random_probs(rng, VALIDATION)
    model_outputs.save_validation_probs(root, FIRST, validation_classes, held_out)
    project = _annotate(pool, classes, n_annotations, n_open, rng)
    loop = _make_loop(root, project, pool)
    store = embeddings_store(loop.own_embeddings, key, loop.view, pool.name, width)
    for split, rows in ((pool, images), (pool.validation, validation), (pool.test, test)):
        store.publish(store.write_all(split.image_ids, rows))
    read_changes(project, loop.store)
    learned = {a.annotation_id: a.digest for of_task in project.answers.values() for a in of_task}
    loop.store.record_learned(
        learned, time.time(), trained_at=time.time(), head_revision=loop.store.facts().revision
    )
    return loop, project


def _make_loop(root: Path, project: CountingProject, pool: Pool) -> Loop:
    return Loop(
        root=root,
        settings=Settings.model_construct(
            data_dir=pool.folder, strategy="auto", keep_versions=0, task_lock_s=3600
        ),
        project=project,
        choices=project.label_config().choices,
        pool=pool,
        weights="none",
        recipe=Recipe(image_size=IMAGE_SIZE),
        seed=0,
        device=torch.device("cpu"),
    )


def _random_images(
    rng: np.random.Generator, centers: Embeddings, count: int
) -> tuple[NDArray[np.float16], Labels]:
    """Return embeddings around the centers, (images, width), and the class of each image."""
    of = rng.integers(CENTERS, size=count)
    noise = rng.standard_normal((count, centers.shape[1]), np.float32)
    return (centers[of] + SPREAD * noise).astype(np.float16), of % len(CLASSES)


def _pictures(count: int) -> NDArray[np.uint8]:
    return np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (count, 32, 32, 3))


def _annotate(
    pool: Pool, classes: Labels, n_annotations: int, n_open: int, rng: np.random.Generator
) -> CountingProject:
    """Return a project with open tasks and `n_annotations` annotations, some of them second
    opinions.
    """
    chosen = np.where(
        rng.random(n_annotations) < CARELESS,
        rng.integers(len(CLASSES), size=n_annotations),
        classes[:n_annotations],
    )
    project = CountingProject(CLASSES)
    number = 0
    for row, probs in enumerate(random_probs(rng, n_annotations + n_open)):
        annotations: list[Annotation] = []
        is_second = row % SECOND_OPINION_EVERY == SECOND_OPINION_EVERY - 1
        for turn in range(min(1 + is_second, n_annotations - number)):
            number += 1
            annotator = (row + turn) % ANNOTATORS + 1
            annotations.append(make_annotation(number, row + 1, annotator, CLASSES[chosen[row]]))
        if not annotations and len(project.open_ids) == n_open:
            break
        asked = Asked(pool.image_ids[row], 1, "margin", FIRST, 0.5, tuple(probs.tolist()))
        task = NewTask(asked.image_id, task_data.write_asked(PICTURE, asked, None))
        project.add(row + 1, task, annotations, CLASSES[classes[row]])
    return project
