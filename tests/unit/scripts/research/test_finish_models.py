"""Check what models of the finish benchmark are trained on, and that they are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts.research.finish_models import load_model, save_model, train_heads
from scripts.research.hidden_pool import HiddenPool


def hidden_pool(n_images: int) -> HiddenPool:
    """Return images of three classes, each clustered around a different corner."""
    rng = np.random.default_rng(0)
    truth = np.arange(n_images) % 3
    embeddings = np.eye(3, dtype=np.float32)[truth]
    embeddings += rng.normal(scale=0.3, size=embeddings.shape).astype(np.float32)
    return HiddenPool(tuple(map(str, range(n_images))), embeddings, truth, 3, None)


def test_heads_learn_from_growing_sets_of_labels_but_never_from_held_out_images() -> None:
    models = list(train_heads(hidden_pool(800), seed=0))
    assert [len(model.asked) for model in models] == [100, 200, 350, 500]  # 600 are not held out
    for model in models:
        assert len(model.held_out) == 200
        assert not set(model.asked) & set(model.held_out)
        assert (model.probs.argmax(axis=1) == np.arange(800) % 3).mean() > 0.9
    assert models[1].asked[:100].tolist() == models[0].asked.tolist()


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = next(iter(train_heads(hidden_pool(500), seed=1)))
    save_model(tmp_path / "head.npz", model)
    kept = load_model(tmp_path / "head.npz")
    for name in ("asked", "held_out", "probs"):
        assert np.array_equal(getattr(kept, name), getattr(model, name))
    assert [path.name for path in tmp_path.iterdir()] == ["head.npz"]
