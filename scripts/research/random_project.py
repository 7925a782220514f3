"""A project with one version of random weights, as set-up and a first training leave it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from backend.base.arrays import Probs
from backend.measures.evaluation import Evaluation
from backend.network import resnet
from backend.store import model_outputs
from backend.store.project_record import ProjectRecord, write_record
from backend.store.registry import Registry
from backend.store.tensor_file import body_key
from backend.store.version_meta import Meta

CLASSES = tuple(f"class {i}" for i in range(10))
PROJECT = 1
FIRST = "r0001"
LABEL_STUDIO_URL = "http://127.0.0.1:9"  # nothing listens


def save_random_project(
    root: Path, image_ids: Sequence[str], image_size: int, rng: np.random.Generator
) -> str:
    """Write a project's record, and a version with scores of the pool; return the body's key."""
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
