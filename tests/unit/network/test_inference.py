"""Test predictions for images of any number and size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from backend.base.arrays import RowView
from backend.base.errors import BrokenVersionError
from backend.network import inference, resnet


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return str(request.param)


@pytest.fixture
def model(device: str) -> nn.Module:
    return inference.load_model(resnet.build(5, None, seed=0).state_dict(), 5, device)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(0, 32, 32), (1, 32, 32), (5, 32, 32), (3, 20, 50), (2, 70, 90)])
def test_rows_sum_to_one_for_any_images(
    model: nn.Module, device: str, shape: tuple[int, int, int]
) -> None:
    probs = inference.predict(model, noise(*shape), image_size=32, device=device).probs
    assert probs.shape == (shape[0], 5)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)


def test_the_batch_size_does_not_change_the_predictions(model: nn.Module, device: str) -> None:
    images = noise(7, 32, 32)
    whole = inference.predict(model, images, image_size=32, device=device).probs
    parts = inference.predict(model, images, image_size=32, device=device, batch_size=3).probs
    np.testing.assert_allclose(parts, whole, atol=0.01)  # bf16
    assert whole.std(axis=0).max() > 0.001  # the rows do differ


def test_progress_counts_images(model: nn.Module, device: str) -> None:
    calls = []
    inference.predict(
        model,
        noise(7, 32, 32),
        image_size=32,
        device=device,
        batch_size=3,
        on_batch=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(3, 7), (6, 7), (7, 7)]


def test_a_read_only_memory_mapped_pool_is_scored_without_a_warning(
    tmp_path: Path, model: nn.Module, device: str
) -> None:
    np.save(tmp_path / "images.npy", noise(4, 32, 32))
    pool = np.load(tmp_path / "images.npy", mmap_mode="r")
    probs = inference.predict(model, pool, image_size=32, device=device).probs
    expected = inference.predict(model, np.array(pool), image_size=32, device=device).probs
    np.testing.assert_array_equal(probs, expected)


def test_other_classes_or_a_missing_tensor_are_named() -> None:
    state = resnet.build(5, None, seed=0).state_dict()
    with pytest.raises(BrokenVersionError, match="ResNet-18 of 4 classes"):
        inference.load_model(state, 4, "cpu")
    del state["bn1.running_var"]
    with pytest.raises(BrokenVersionError, match=r"bn1\.running_var"):
        inference.load_model(state, 5, "cpu")


def test_white_is_normalized_as_imagenet_models_expect() -> None:
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    normal = inference.normalizer(torch.device("cpu"))(white).flatten()
    torch.testing.assert_close(normal, torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4, rtol=0)


def test_a_shrunk_image_averages_its_pixels_instead_of_skipping_some() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = 240  # one column in eight
    batch = inference.on_device(stripes[None], torch.device("cpu"))
    shrunk = inference.resize_bytes(batch, 8)[..., 1:-1]
    assert set(shrunk.flatten().tolist()) == {240 // 8}


def test_a_view_is_predicted_like_the_images_that_it_shows(model: nn.Module, device: str) -> None:
    pool, rows = noise(5, 32, 32), np.array([4, 0, 4])
    view = RowView(pool, rows)
    np.testing.assert_array_equal(
        inference.predict(model, view, image_size=32, device=device, batch_size=2).probs,
        inference.predict(model, pool[rows], image_size=32, device=device, batch_size=2).probs,
    )
