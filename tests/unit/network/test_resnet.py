"""Test which tensors a ResNet-18 takes from pre-trained weights, and which the seed draws."""

from __future__ import annotations

import torch

from backend.network import resnet


def test_the_same_seed_builds_the_same_model_and_another_seed_another_head() -> None:
    one, same, other = (resnet.build(3, None, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_building_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    resnet.build(3, None, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_all_tensors_but_a_head_of_another_class_count_are_taken() -> None:
    start = resnet.build(200, None, seed=1).half().state_dict()
    model = resnet.build(10, start | {"foreign": torch.zeros(1)}, seed=2).state_dict()
    assert model["fc.weight"].shape == (10, 512)
    body = [name for name in model if not name.startswith("fc.")]
    assert all(torch.equal(model[name], start[name].to(model[name].dtype)) for name in body)
    assert model["conv1.weight"].dtype == torch.float32


def test_the_seed_alone_decides_the_new_head() -> None:
    start = resnet.build(200, None, seed=1).state_dict()
    with_start, without = resnet.build(10, start, seed=2), resnet.build(10, None, seed=2)
    assert torch.equal(with_start.state_dict()["fc.weight"], without.state_dict()["fc.weight"])
