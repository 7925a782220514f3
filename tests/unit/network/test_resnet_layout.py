"""Test that only the layout of torchvision's ResNet-18 is accepted, without torch."""

from __future__ import annotations

import pytest

from backend.network import resnet
from backend.network.resnet_layout import (
    HEAD_TENSORS,
    TensorType,
    find_fault,
    find_head_fault,
    resnet18,
)


def test_the_layout_is_that_of_torchvisions_network() -> None:
    state = resnet.build(4, None, seed=0).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    dtypes = {"torch.float32": "F32", "torch.int64": "I64"}
    types = {name: dtypes[str(tensor.dtype)] for name, tensor in state.items()}
    assert {n: t.shape for n, t in resnet18(4).items()} == shapes
    assert {n: t.dtype for n, t in resnet18(4).items()} == types
    assert find_fault(resnet18(4), 4) == ""
    assert list(resnet18(4)) == list(state)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"conv1.weight": None}, "conv1.weight is missing"),
        ({"layer4.1.bn2.bias": None}, "layer4.1.bn2.bias is missing"),
        ({"bn1.bias": TensorType("F32", ())}, r"bn1.bias is F32 [], not F32 [64]"),
        ({"bn1.bias": TensorType("F16", (64,))}, r"bn1.bias is F16 [64], not F32 [64]"),
        ({"conv1.weight": TensorType("F32", ())}, r"conv1.weight is F32 [], not F32 [0, 3, 7, 7]"),
        (
            {"layer1.2.bn1.bias": TensorType("F32", (64,))},
            "'layer1.2.bn1.bias' does not belong to it",
        ),
    ],
)
def test_the_tensor_that_does_not_fit_is_named(
    changes: dict[str, TensorType | None], fault: str
) -> None:
    tensors = {n: t for n, t in (resnet18(4) | changes).items() if t is not None}
    assert find_fault(tensors, 4) == fault


def test_another_number_of_classes_is_named() -> None:
    assert find_fault(resnet18(4), 5) == "fc.weight is F32 [4, 512], not F32 [5, 512]"
    head = {name: resnet18(4)[name] for name in HEAD_TENSORS}
    assert find_head_fault(head, 4) == ""
    assert find_head_fault(head, 5) == "fc.weight is F32 [4, 512], not F32 [5, 512]"


def test_a_head_has_exactly_two_tensors() -> None:
    assert "does not belong" in find_head_fault(resnet18(4), 4)
    assert find_head_fault({}, 4) == "fc.weight is missing"
    assert find_head_fault({"fc.weight": TensorType("F32", ())}, 4) == (
        "fc.weight is F32 [], not F32 [4, 0]"
    )
