"""Check averages of weights on small trainings, and that measuring them changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.network import resnet
from backend.network.training import Recipe, train
from scripts.research.averaged_training import LAST, name_of, refit_statistics, train_averaged

QUICK = Recipe(image_size=32, batch_size=8, min_steps=3, epochs=1)
CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture(scope="module")
def states() -> dict[str, resnet.State]:
    return train_averaged(
        IMAGES,
        LABELS,
        n_classes=3,
        start=None,
        recipe=QUICK,
        may_flip=True,
        seed=0,
        device="cpu",
        decays=(0.0, 0.5, 1.0),
    )


def test_the_last_weights_are_those_of_the_loops_training(states: dict[str, resnet.State]) -> None:
    trained = train(
        IMAGES,
        LABELS,
        n_classes=3,
        start=None,
        recipe=QUICK,
        may_flip=True,
        seed=0,
        device="cpu",
    )
    assert all(torch.equal(trained[name], states[LAST][name]) for name in trained)


def test_an_average_lies_between_the_first_and_the_last_weights(
    states: dict[str, resnet.State],
) -> None:
    name = "bn1.running_mean"  # statistics are averaged with the weights
    first, middle, last = (states[name_of(decay)][name] for decay in (1.0, 0.5, 0.0))
    assert torch.equal(last, states[LAST][name])
    assert not torch.equal(first, last)
    assert (middle - last).abs().sum() < (first - last).abs().sum()


def test_refitted_statistics_are_those_of_the_images_and_leave_the_given_network_alone() -> None:
    state = resnet.build(3, None, seed=0).state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    white = np.full((4, 32, 32, 3), 255, np.uint8)
    refitted = refit_statistics(state, 3, white, 32, CPU)
    assert all(torch.equal(before[name], state[name]) for name in state)
    weights = [name for name in state if name.endswith(("weight", "bias"))]
    assert all(torch.equal(before[name], refitted[name]) for name in weights)
    assert not torch.equal(before["bn1.running_mean"], refitted["bn1.running_mean"])
    again = refit_statistics(refitted, 3, white, 32, CPU)
    torch.testing.assert_close(again["bn1.running_mean"], refitted["bn1.running_mean"])
