"""Compute probabilities and embeddings once, and again when they are lost or damaged."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from backend.base.errors import NoModelError
from backend.rounds import batches, scoring
from backend.rounds.loop import Loop
from backend.store import model_outputs
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import ask_and_annotate, quiet, refit, seed, train


def test_a_version_without_kept_embeddings_embeds_the_pool_once_for_its_heads(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    meta_file = loop.root / "r0001/meta.json"
    old = loop.registry.read_meta("r0001").model_copy(update={"body_key": ""})
    meta_file.write_text(old.model_dump_json())
    for path in (loop.root / "embeddings").glob("*"):
        path.unlink()
    ask_and_annotate(loop, project)
    first = refit(loop)
    assert first.body_key
    [kept] = (loop.root / "embeddings").glob("*")
    made_at = kept.stat().st_mtime_ns
    ask_and_annotate(loop, project)
    refit(loop)
    assert kept.stat().st_mtime_ns == made_at


def test_lost_embeddings_are_computed_again(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(loop)
    kept = {path: path.read_bytes() for path in (loop.root / "embeddings").glob("*")}
    assert kept
    for path in kept:
        path.unlink()
    ask_and_annotate(loop, project)
    assert refit(loop).version == "r0001h01"
    assert {p: p.read_bytes() for p in (loop.root / "embeddings").glob("*")} == kept


def test_probabilities_with_nan_are_named_with_their_version(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    probs = scoring.pool_probs(loop, meta, quiet).copy()
    probs[3, 2] = np.nan
    model_outputs.save_pool_probs(loop.root, meta.version, loop.pool.image_ids, probs)
    with pytest.raises(NoModelError, match="r0001 contain NaN"):
        batches.choose_batch(loop, 5, "margin")


@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "of another network"])
def test_damaged_scores_and_embeddings_are_computed_again(
    loop: Loop, project: OracleProject, is_empty: bool
) -> None:
    seed(loop, project)
    meta = train(loop)
    probs = scoring.pool_probs(loop, meta, quiet)
    key, kept = scoring.embeddings_of(loop, meta, quiet)
    [path] = (loop.root / "embeddings").iterdir()
    narrow = {name: rows[:, :7] for name, rows in vars(kept).items()}
    content = b"" if is_empty else safetensors.numpy.save(narrow)
    for damaged in (loop.root / "r0001/pool.safetensors", path):
        damaged.write_bytes(content)
    np.testing.assert_allclose(scoring.pool_probs(loop, meta, quiet), probs, atol=0.01)
    again, made = scoring.embeddings_of(loop, meta, quiet)
    assert (again, made.pool.shape) == (key, kept.pool.shape)
    assert path.stat().st_size > 1000 * len(loop.pool.image_ids)
