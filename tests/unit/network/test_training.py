"""Test training on images of one color each, where it is obvious what must be learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from backend.base.arrays import Images, Labels
from backend.base.errors import TooFewLabelsError, TrainingError
from backend.measures.evaluation import evaluate
from backend.network import inference, resnet, training
from backend.network.training import Recipe

QUICK = Recipe(image_size=32, batch_size=8, min_steps=3, epochs=1)
CPU = torch.device("cpu")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return str(request.param)


def colors(n: int, size: int = 16, seed: int = 0) -> tuple[Images, Labels]:
    """Alternate red, green and blue images with some noise; their classes are 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.integers(0, 60, (n, size, size, 3), dtype=np.uint8)
    images[np.arange(n), :, :, labels] += 150
    return images, labels


def train_quickly(
    seed: int = 0, device: str = "cpu", recipe: Recipe = QUICK, start: resnet.State | None = None
) -> resnet.State:
    images, labels = colors(12)
    return training.train(
        images,
        labels,
        n_classes=3,
        start=start,
        recipe=recipe,
        may_flip=True,
        seed=seed,
        device=device,
    )


def test_the_same_seed_on_the_same_device_gives_the_same_weights(device: str) -> None:
    first = train_quickly(device=device)
    torch.manual_seed(99)  # other code draws random numbers
    again = train_quickly(device=device)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = train_quickly(seed=1, device=device)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_training_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_quickly()
    assert torch.equal(torch.rand(3), expected)


def test_colors_are_learned(device: str) -> None:
    images, labels = colors(24)
    state = training.train(
        images,
        labels,
        n_classes=3,
        start=None,
        recipe=replace(QUICK, batch_size=12, min_steps=50, lr=0.03),
        may_flip=True,
        seed=0,
        device=device,
    )
    model = inference.load_model(state, 3, device)
    unseen, truth = colors(30, seed=1)
    probs = inference.predict(model, unseen, image_size=32, device=device).probs
    assert evaluate(probs, truth).accuracy == 1.0


def test_training_starts_from_the_given_weights() -> None:
    start = resnet.build(200, None, seed=7).state_dict()
    trained = train_quickly(recipe=replace(QUICK, lr=0.0), start=start)
    assert torch.equal(trained["layer3.0.conv1.weight"], start["layer3.0.conv1.weight"])


def test_trained_weights_can_be_saved_and_loaded(tmp_path: Path, device: str) -> None:
    state = train_quickly(device=device)
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    loaded = safetensors.torch.load_file(tmp_path / "model.safetensors")
    inference.load_model(loaded, 3, device)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_fewer_than_two_classes_are_too_few(n: int) -> None:
    images, labels = colors(n)
    with pytest.raises(TooFewLabelsError, match=f"{n} labeled images of {min(n, 1)} class"):
        training.train(
            images,
            labels * 0,
            n_classes=3,
            start=None,
            recipe=QUICK,
            may_flip=True,
            seed=0,
            device="cpu",
        )


def test_training_from_nan_weights_is_an_error_that_names_the_setting() -> None:
    start = resnet.build(3, None, seed=0).state_dict()
    start["conv1.weight"].fill_(torch.nan)
    with pytest.raises(TrainingError, match="WEIGHTS"):
        train_quickly(start=start)


def test_training_with_images_of_16_px_leaves_no_garbage_in_the_weights() -> None:
    recipe = replace(QUICK, image_size=16, min_steps=12)
    model = resnet.build(3, None, seed=0).to(memory_format=torch.channels_last)
    optimizer = training.make_optimizer(model, recipe)
    images, labels = colors(12)
    feed = training.batches(images, labels, recipe=recipe, may_flip=False, seed=0, device=CPU)
    for batch, targets, weights in feed:
        # Memory that is freed here is likely to be used for the gradients.
        torch.full((512 * 256 * 9,), torch.nan)
        training.take_step(model, optimizer, batch, targets, weights)
        assert all(w.isfinite().all() and w.abs().max() < 100 for w in model.parameters())


def test_every_step_is_reported() -> None:
    images, labels = colors(12)
    calls = []
    training.train(
        images,
        labels,
        n_classes=3,
        start=None,
        recipe=QUICK,
        may_flip=True,
        seed=0,
        device="cpu",
        on_step=lambda step, steps: calls.append((step, steps)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_few_labels_get_the_minimum_of_steps_and_many_get_all_epochs() -> None:
    recipe = Recipe(batch_size=50, min_steps=60, epochs=10)
    assert recipe.steps(200) == 60
    assert recipe.steps(1000) == 200


def test_the_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    recipe = Recipe(lr=1.0, warm_up=0.2)
    rates = [recipe.lr_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.025)
    assert rates[:20] == sorted(rates[:20])
    assert rates[20] == pytest.approx(1.0, abs=1e-3)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[60] == pytest.approx(0.5, abs=0.01)
    assert rates[-1] < 1e-3


def look_through(
    images: Images, recipe: Recipe, *, may_flip: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all batches of a training, and the position of each row's image."""
    positions = np.arange(len(images))
    feed = training.batches(images, positions, recipe=recipe, may_flip=may_flip, seed=0, device=CPU)
    seen, chosen, _ = zip(*feed, strict=True)
    return torch.stack(seen), torch.stack(chosen)


def test_batches_are_full_and_every_image_is_seen_equally_often() -> None:
    recipe = Recipe(image_size=8, batch_size=4, min_steps=5, epochs=1)
    _, chosen = look_through(colors(10, size=8)[0], recipe)
    assert chosen.shape == (5, 4)
    assert chosen.flatten().bincount().tolist() == [2] * 10


@pytest.mark.parametrize("size", [16, 32, 80])
def test_without_augmentation_training_sees_what_inference_sees(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, size, size + 4, 3), dtype=np.uint8)
    recipe = Recipe(image_size=32, batch_size=6, min_steps=1, max_translate=0, color_jitter=0)
    seen, chosen = look_through(images, recipe)
    ready = inference.normalizer(CPU)(inference.on_device(images, CPU))
    expected = inference.resize(ready, 32)[chosen[0]]
    # Images that shrink are stored as bytes: half a grey level, over the deviation.
    torch.testing.assert_close(seen[0], expected, atol=0.5 / 255 / 0.22, rtol=0)


def test_images_are_mirrored_only_if_that_keeps_their_class() -> None:
    images = np.zeros((8, 16, 16, 3), np.uint8)
    images[:, :, :8] = 255  # bright on the left
    recipe = Recipe(image_size=16, batch_size=8, min_steps=4, max_translate=0)
    for may_flip, sides in ((False, {True}), (True, {True, False})):
        seen, _ = look_through(images, recipe, may_flip=may_flip)
        is_bright_left = seen[..., :8].mean((2, 3, 4)) > seen[..., 8:].mean((2, 3, 4))
        assert set(is_bright_left.flatten().tolist()) == sides


def test_images_move_by_whole_pixels_and_no_further_than_the_recipe_says() -> None:
    images = np.zeros((16, 16, 16, 3), np.uint8)
    images[:, 8, 8] = 255
    recipe = Recipe(image_size=16, batch_size=16, min_steps=20, max_translate=0.125, color_jitter=0)
    seen, _ = look_through(images, recipe)
    _, rows, columns = (seen[:, :, 0] > 1).flatten(0, 1).nonzero(as_tuple=True)
    assert set(rows.tolist()) == set(columns.tolist()) == {6, 7, 8, 9, 10}
    assert len(rows) == 16 * 20  # one bright pixel each, not smeared over several


def test_each_image_gets_its_own_colors_within_the_recipes_limits() -> None:
    images = np.zeros((16, 8, 8, 3), np.uint8)
    images[:] = 124, 116, 104  # ImageNet's mean: all but brightness leaves it alone
    images[:, :, 4:, 0] = 224  # the right half is redder by (100, 0, 0), which is also lighter
    recipe = Recipe(image_size=8, batch_size=16, min_steps=20, max_translate=0, color_jitter=0.5)
    (plain, _), (seen, _) = (
        look_through(images, replace(recipe, color_jitter=t)) for t in (0, 0.5)
    )
    left, right = seen[..., 1], seen[..., 6]  # (steps, batch, channel, row)
    assert torch.equal(seen[..., :4], left[..., None].expand(-1, -1, -1, -1, 4))  # whole images
    redder = (plain[..., 6] - plain[..., 1])[0, 0, 0, 0]
    contrast = (right - left).sum(2) / redder  # of the channels' sum, which saturation keeps
    saturation = (right - left)[:, :, 0].sub((right - left)[:, :, 1]) / redder / contrast
    for found, middle in ((left.mean(2), 0), (contrast, 1), (saturation, 1)):
        values = found[..., 0].flatten()
        assert middle - 0.51 < values.min() < middle - 0.45
        assert middle + 0.45 < values.max() < middle + 0.51
        assert len(set(values.tolist())) > 300  # of 320
