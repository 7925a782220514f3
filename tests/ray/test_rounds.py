"""Run rounds of the loop with SCALE=ray: training, embedding and adapting on a real cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.base.errors import ScaleError
from backend.base.settings import Settings
from backend.images.pool import Pool, open_pool
from backend.network.inference import load_network, predict
from backend.network.training import Recipe
from backend.rounds import adapting, body_embeddings, rounds, scoring
from backend.rounds.embeddings import embeddings_of
from backend.rounds.loop import Loop
from backend.store.project_record import project_root
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import ask_and_annotate, quiet, seed, train

NOWHERE = "127.0.0.1:9"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Return the digits, 1,295 images in the pool."""
    return open_pool("digits", tmp_path_factory.mktemp("data"), seed=0)


@pytest.fixture
def project(pool: Pool) -> OracleProject:
    return OracleProject(pool.classes)


@pytest.fixture
def loop(
    tmp_path: Path, pool: Pool, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> Loop:
    """Return a loop whose embeddings of more than a thousand images are computed on a cluster."""
    monkeypatch.setattr(body_embeddings, "CLUSTER_MIN", 1000)
    settings = Settings.model_construct(
        data_dir=tmp_path,
        overlap="1",
        batch_size=10,
        keep_versions=0,
        adapt=0.05,
        device="cpu",
        scale="ray",
        ray_address="",
    )
    return Loop(
        settings=settings,
        root=project_root(tmp_path / "models", 1),
        project=project,
        choices=pool.classes,
        pool=pool,
        weights="none",
        recipe=Recipe(image_size=32, min_steps=40, epochs=2),
        seed=0,
        device=torch.device("cpu"),
    )


def at(loop: Loop, address: str) -> Loop:
    return replace(loop, settings=loop.settings.model_copy(update={"ray_address": address}))


def test_a_round_and_an_adaptation_run_on_the_cluster(
    loop: Loop, project: OracleProject, cluster: Any
) -> None:
    loop = at(loop, cluster.address)
    seed(loop, project, 100)
    meta = train(loop)
    assert meta.validation is not None
    assert meta.validation.accuracy > 0.3
    _, found = embeddings_of(loop, meta, quiet)
    assert found.pool.shape == (1295, 512)
    here = replace(loop, settings=loop.settings.model_copy(update={"scale": "local"}))
    direct = predict(
        load_network(loop.registry.load_state(meta.version), loop.device),
        loop.pool.images,
        image_size=32,
        device=loop.device,
    )
    np.testing.assert_allclose(found.pool[:], direct.embeddings, atol=1e-3)
    probs = scoring.pool_probs(here, meta, quiet)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    body = adapting.adapt_body(loop, lambda: True)
    assert body is not None
    assert body.steps > 0
    assert loop.cluster_place.names() == []


def test_without_its_cluster_the_loop_goes_on_with_heads(
    loop: Loop, project: OracleProject, cluster: Any
) -> None:
    there = at(loop, cluster.address)
    seed(there, project, 100)
    train(there)
    gone = at(loop, NOWHERE)
    ask_and_annotate(gone, project)
    with pytest.raises(ScaleError, match=rf"no Ray cluster answers at RAY_ADDRESS={NOWHERE}"):
        rounds.train_round(gone, is_forced=True, progress=quiet)
    head = rounds.refit_head(gone)
    assert head is not None
    assert head.version == "r0001h01"
