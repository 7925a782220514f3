"""Compute probabilities and embeddings once, and again when they are lost or damaged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from backend.base import row_blocks
from backend.base.arrays import Images, RowView
from backend.base.errors import NoModelError
from backend.base.progress import Progress
from backend.images.framing import View
from backend.images.pool import Pool
from backend.network.head import Head
from backend.network.inference import Outputs, predict
from backend.rounds import batches, body_embeddings, scoring
from backend.rounds.embeddings import embeddings_of
from backend.rounds.loop import Loop
from backend.store import model_outputs
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import ask_and_annotate, quiet, refit, seed, train


def embedding_files(loop: Loop) -> set[Path]:
    return {*(loop.root / "embeddings").glob("*/*.parquet")}


def test_a_version_without_kept_embeddings_embeds_the_pool_once_for_its_heads(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    meta_file = loop.root / "r0001/meta.json"
    old = loop.registry.read_meta("r0001").model_copy(update={"body_key": ""})
    meta_file.write_text(old.model_dump_json())
    shutil.rmtree(loop.root / "embeddings")
    ask_and_annotate(loop, project)
    first = refit(loop)
    assert first.body_key
    made = embedding_files(loop)
    assert made
    ask_and_annotate(loop, project)
    refit(loop)
    assert embedding_files(loop) == made


def test_lost_embeddings_are_computed_again(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(loop)
    _, kept = embeddings_of(loop, loop.registry.read_meta("r0001"), quiet)
    shutil.rmtree(loop.root / "embeddings")
    ask_and_annotate(loop, project)
    head = refit(loop)
    assert head.version == "r0001h01"
    assert embedding_files(loop)
    _, again = embeddings_of(loop, head, quiet)
    assert np.array_equal(again.pool[:], kept.pool[:])
    assert np.array_equal(again.validation, kept.validation)


def test_probabilities_with_nan_are_named_with_their_version(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(loop, project)
    train(loop)
    shutil.rmtree(loop.root / "r0001/pool")
    nan = np.float32(np.nan)
    monkeypatch.setattr(Head, "probs", lambda *_: np.full((len(loop.pool.image_ids), 10), nan))
    with pytest.raises(NoModelError, match="r0001 contain NaN"):
        batches.choose_batch(loop, 5, "margin")


def test_candidates_of_a_large_pool_are_not_copied(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(loop, project)
    meta = train(loop)
    rows, asked = [7, 3, 5], {loop.pool.image_ids[4]}
    of_small = scoring.find_candidates(loop, meta, "typiclust", rows, asked, quiet)
    monkeypatch.setattr(row_blocks, "LARGE_POOL", 3)
    of_large = scoring.find_candidates(loop, meta, "typiclust", rows, asked, quiet)
    assert isinstance(of_small.embeddings, np.ndarray)
    assert isinstance(of_large.embeddings, RowView)
    assert np.array_equal(of_large.embeddings[:], of_small.embeddings)
    assert of_large.asked is not None
    assert np.array_equal(of_large.asked[:], embeddings_of(loop, meta, quiet)[1].pool[4:5])


def test_only_new_images_are_scored_and_embedded_and_rows_of_other_images_stay(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(loop.pool, image_ids=loop.pool.image_ids[:240], images=loop.pool.images[:240])
    small = replace(loop, pool=few)
    seed(small, project)
    meta = train(small)
    probs = scoring.pool_probs(small, meta, quiet)
    _, before = embeddings_of(small, meta, quiet)
    n_predicted: list[int] = []
    run = predict

    def count(model: nn.Module, images: Images, **options: Any) -> Outputs:
        n_predicted.append(len(images))
        return run(model, images, **options)

    monkeypatch.setattr(body_embeddings, "predict", count)
    rows = slice(5, 250)  # 5 images are gone, 10 are new
    grown = replace(
        loop,
        pool=replace(loop.pool, image_ids=loop.pool.image_ids[rows], images=loop.pool.images[rows]),
    )

    assert np.array_equal(scoring.pool_probs(grown, meta, quiet)[:235], probs[5:])
    _, after = embeddings_of(grown, meta, quiet)

    assert n_predicted == [10]  # the scores are computed from the embeddings
    assert np.array_equal(after.pool[:235], before.pool[5:])
    assert np.array_equal(after.validation, before.validation)
    assert np.isfinite(after.pool[:]).all()
    kept = model_outputs.load_pool_probs(loop.root, meta.version)
    assert kept is not None
    # Another process may have opened a larger pool.
    assert kept.image_ids == loop.pool.image_ids
    scoring.pool_probs(grown, meta, quiet)
    embeddings_of(grown, meta, quiet)
    assert len(n_predicted) == 1


def test_a_version_is_scored_with_the_view_that_it_was_trained_with(
    loop: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(loop, project)
    meta = train(loop)
    assert meta.view == View(32)
    old = meta.model_copy(update={"framing": "middle"})
    views: list[View | None] = []
    images_of = Pool.images_of

    def record(
        pool: Pool, ids: Sequence[str], view: View | None = None, progress: Progress = quiet
    ) -> Images:
        views.append(view)
        return images_of(pool, ids, view, progress)

    monkeypatch.setattr(Pool, "images_of", record)
    shutil.rmtree(loop.root / "r0001/pool")
    (loop.root / "r0001/validation.safetensors").unlink()
    scoring.pool_probs(loop, old, quiet)
    scoring.validation_probs(loop, old)
    embeddings_of(loop, old, quiet)
    assert views == [View(32, "middle")] * 4  # the pool, and validation twice: only once kept


@pytest.mark.parametrize("damage", [b"", b"half a file"], ids=["empty", "cut off"])
def test_damaged_scores_and_embeddings_are_computed_again(
    loop: Loop, project: OracleProject, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    seed(loop, project)
    meta = train(loop)
    probs = scoring.pool_probs(loop, meta, quiet)
    key, kept = embeddings_of(loop, meta, quiet)
    shards = [*(loop.root / "r0001/pool").glob("*.parquet"), *embedding_files(loop)]
    assert len(shards) == 4  # the pool twice, validation and test
    for shard in shards:
        shard.write_bytes(damage)
    assert np.array_equal(scoring.pool_probs(loop, meta, quiet), probs)
    again, made = embeddings_of(loop, meta, quiet)
    assert again == key
    assert np.array_equal(made.pool[:], kept.pool[:])
    for shard in shards:
        assert f"{shard.name} is damaged" in caplog.text
        assert not shard.exists()


def test_a_version_of_fewer_classes_scores_images_and_validates_after_a_class_has_joined(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    before = scoring.pool_probs(loop, meta, quiet)
    names = (*loop.choices, "new")
    wider = replace(loop, choices=names, pool=replace(loop.pool, classes=names))
    shutil.rmtree(loop.root / "r0001/pool")
    (loop.root / "r0001/validation.safetensors").unlink()
    after = scoring.pool_probs(wider, meta, quiet)
    np.testing.assert_allclose(after[:, :10], before, atol=0.02)
    assert after[:, 10].tolist() == [0.0] * len(after)
    assert scoring.validation_probs(wider, meta).argmax(axis=1).max() < 10
