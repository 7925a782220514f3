"""Test adapting a body on small images of random patterns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.base.arrays import Images, RowView
from backend.base.errors import AdaptationError, TrainingError
from backend.network import inference, resnet, resnet_layout
from backend.network.adaptation import Adaptation, AdaptationRecipe

QUICK = AdaptationRecipe(image_size=32, batch_size=8, queue_size=16)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return str(request.param)


def patterns(n: int, size: int = 16) -> NDArray[np.uint8]:
    """Draw images of 4 x 4 random colors each."""
    colors = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return colors.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


def adapt(
    images: Images,
    recipe: AdaptationRecipe = QUICK,
    *,
    start: resnet.State | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Adaptation:
    return Adaptation(images, start, recipe=recipe, may_flip=True, seed=seed, device=device)


def equal(first: resnet.State, second: resnet.State) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_a_safetensors_file_can_hold_the_state_and_the_body(tmp_path: Path) -> None:
    adaptation = adapt(patterns(20))
    adaptation.step(0.0)
    for tensors in (adaptation.state_dict(), adaptation.finish()):
        safetensors.torch.save_file(tensors, tmp_path / "file")  # refuses channels last
        assert equal(safetensors.torch.load_file(tmp_path / "file"), tensors)


def test_the_body_of_a_resumed_adaptation_is_the_same_bit_for_bit(device: str) -> None:
    images = patterns(20)  # a pass ends in the third step
    whole = adapt(images, device=device)
    for step in range(5):
        whole.step(step / 5)
    killed = adapt(images, device=device)
    for step in range(3):
        killed.step(step / 5)
    resumed = adapt(images, seed=0, device=device)
    resumed.load_state_dict(killed.state_dict())
    assert resumed.steps_done == 3
    torch.manual_seed(99)  # other code draws random numbers
    for step in range(3, 5):
        resumed.step(step / 5)
    assert equal(resumed.state_dict(), whole.state_dict())
    assert equal(resumed.finish(), whole.finish())


def test_it_resumes_in_a_pool_that_has_grown_with_the_queue_that_it_had() -> None:
    begun = adapt(patterns(20))  # 10 images may be in the queue: one batch of 8
    begun.step(0.0)
    grown = adapt(patterns(60))  # two batches
    grown.load_state_dict(begun.state_dict())
    grown.step(0.5)
    assert grown.steps_done == 2
    assert len(grown.state_dict()["queue"]) == 1


def test_another_seed_gives_another_body() -> None:
    bodies = []
    for seed in (0, 1):
        adaptation = adapt(
            patterns(20), start=resnet.build(3, None, seed=5).state_dict(), seed=seed
        )
        adaptation.step(0.5)
        bodies.append(adaptation.finish())
    assert not torch.equal(bodies[0]["conv1.weight"], bodies[1]["conv1.weight"])


def test_adapting_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    adaptation = adapt(patterns(20))
    adaptation.step(0.5)
    adaptation.finish()
    assert torch.equal(torch.rand(3), expected)


def test_two_crops_of_an_image_come_closer_than_those_of_different_images(device: str) -> None:
    images = patterns(16)
    recipe = replace(
        QUICK, batch_size=16, lr=0.05, teacher_momentum=0.9, color_jitter=0.0, share_grey=0.0
    )
    adaptation = adapt(images, recipe, device=device)
    assert abs(closeness(adaptation.finish(), images, device)) < 0.1
    for step in range(40):
        adaptation.step(step / 40)
    assert closeness(adaptation.finish(), images, device) > 0.4


def closeness(body: resnet.State, images: NDArray[np.uint8], device: str) -> float:
    """Return how much more similar crops of the same image are than those of different images."""
    head = {"fc.weight": torch.zeros(2, 512), "fc.bias": torch.zeros(2)}
    model = inference.load_model(body | head, 2, device)

    def directions(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        embeddings = inference.predict(model, crops, image_size=32, device=device).embeddings
        centered = embeddings.astype(np.float32) - embeddings.mean(axis=0, dtype=np.float32)
        return centered / np.linalg.norm(centered, axis=1, keepdims=True)

    similarities = directions(images[:, :, :12]) @ directions(images[:, :, 4:]).T
    same = np.eye(len(images), dtype=bool)
    return float(similarities[same].mean() - similarities[~same].mean())


def test_the_result_is_a_body_without_a_head_on_the_cpu(device: str) -> None:
    adaptation = adapt(patterns(8), device=device)
    adaptation.step(0.5)
    body = adaptation.finish()
    expected = resnet_layout.resnet18(2).keys() - set(resnet_layout.HEAD_TENSORS)
    assert body.keys() == expected
    assert all(t.device.type == "cpu" and t.is_contiguous() for t in body.values())


def test_finishing_without_a_step_only_refits_batch_normalization() -> None:
    start = resnet.build(3, None, seed=7).state_dict()
    body = adapt(patterns(20), start=start).finish()
    changed = {name for name in body if not torch.equal(body[name], start[name])}
    kinds = {"running_mean", "running_var", "num_batches_tracked"}
    assert {name.rsplit(".", 1)[1] for name in changed} == kinds
    assert all(name in changed for name in body if name.rsplit(".", 1)[1] in kinds)


def test_the_body_is_half_way_between_its_start_and_the_trained_weights() -> None:
    start = resnet.build(3, None, seed=5).state_dict()
    adaptation = adapt(patterns(20), start=start)
    for step in range(3):
        adaptation.step(step / 3)
    trained = adaptation.state_dict()["student.layer4.1.conv2.weight"]
    body = adaptation.finish()["layer4.1.conv2.weight"]
    known = start["layer4.1.conv2.weight"]
    assert not torch.equal(trained, known)
    torch.testing.assert_close(body, (known + trained) / 2)


def test_without_a_start_the_body_has_the_trained_weights() -> None:
    adaptation = adapt(patterns(20))
    adaptation.step(0.5)
    trained = adaptation.state_dict()["student.conv1.weight"]
    assert torch.equal(adaptation.finish()["conv1.weight"], trained)


def test_finishing_does_not_disturb_the_steps_after_it() -> None:
    straight, finished = adapt(patterns(20)), adapt(patterns(20))
    straight.step(0.2)
    finished.step(0.2)
    finished.finish()
    straight.step(0.4)
    finished.step(0.4)
    assert equal(straight.state_dict(), finished.state_dict())


def test_steps_and_passes_are_counted() -> None:
    adaptation = adapt(patterns(20))
    assert (adaptation.steps_done, adaptation.passes_done) == (0, 0.0)
    for _ in range(5):
        adaptation.step(0.5)
    assert (adaptation.steps_done, adaptation.passes_done) == (5, 2.0)


@pytest.mark.parametrize("call", [Adaptation.finish, Adaptation.state_dict])
def test_adapting_nan_weights_is_an_error_that_names_the_setting(call: object) -> None:
    start = resnet.build(3, None, seed=0).state_dict()
    start["layer1.0.conv1.weight"].fill_(torch.nan)
    adaptation = adapt(patterns(8), start=start)
    adaptation.step(0.5)
    assert callable(call)
    with pytest.raises(TrainingError, match="WEIGHTS"):
        call(adaptation)


def test_a_long_adaptation_notices_a_nan_before_it_ends() -> None:
    start = resnet.build(3, None, seed=0).state_dict()
    start["conv1.weight"].fill_(torch.nan)
    adaptation = adapt(patterns(2, size=8), replace(QUICK, image_size=8), start=start)
    for _ in range(99):
        adaptation.step(0.5)
    with pytest.raises(TrainingError, match="NaN"):
        adaptation.step(0.5)


@pytest.mark.parametrize(("n", "size", "image_size"), [(2, 8, 16), (9, 224, 64), (5, 32, 32)])
def test_small_and_odd_pools_can_be_adapted_to(n: int, size: int, image_size: int) -> None:
    images = patterns(n, size)[:, :, : size - 3]
    adaptation = adapt(images, replace(QUICK, image_size=image_size))
    for step in range(3):
        torch.full((512 * 256 * 9,), torch.nan)  # likely to be used for the gradients
        adaptation.step(step / 3)
    assert all(tensor.isfinite().all() for tensor in adaptation.finish().values())


def test_a_single_image_is_too_few() -> None:
    with pytest.raises(AdaptationError, match="add images"):
        adapt(patterns(1))


def test_a_view_of_a_pool_is_read_in_pieces() -> None:
    images = patterns(40)
    rows = np.arange(39, 9, -1)

    class Counted(RowView[np.uint8]):
        most = 0

        def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
            got = super().__getitem__(rows)
            self.most = max(self.most, len(got))
            return got

    view = Counted(images, rows)
    of_view, of_array = adapt(view), adapt(images[rows])
    for step in range(3):
        of_view.step(step / 3)
        of_array.step(step / 3)
    assert equal(of_view.finish(), of_array.finish())
    assert view.most == QUICK.batch_size


@pytest.mark.parametrize("change", ["a tensor is missing", "another shape", "another type"])
def test_a_state_that_does_not_fit_is_refused(change: str) -> None:
    state = adapt(patterns(20)).state_dict()
    changes: dict[str, Tensor] = {
        "another shape": state["queue"][:, :1],
        "another type": state["queue"].half(),
    }
    queue = changes.get(change)
    del state["queue"]
    if queue is not None:
        state["queue"] = queue
    with pytest.raises(AdaptationError, match="another adaptation"):
        adapt(patterns(20)).load_state_dict(state)
