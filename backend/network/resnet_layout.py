"""Check, without torch, whether tensors form a ResNet-18."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

HEAD_TENSORS = ("fc.weight", "fc.bias")
STAGES = 4
BLOCKS = 2  # in each stage
COUNTER = "num_batches_tracked"


class TensorType(NamedTuple):
    """A tensor's data type and shape, as in the header of a safetensors file."""

    dtype: str  # F32, I64, ...
    shape: tuple[int, ...]


def resnet18(n_classes: int, width: int = 64) -> dict[str, TensorType]:
    """Return the data type and shape of every tensor in torchvision's ResNet-18.

    `width` is the number of channels in the first stage.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, n_out: int, n_in: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (n_out, n_in, kernel, kernel)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (n_out,)
        shapes[f"{norm}.{COUNTER}"] = ()

    add("conv1", "bn1", width, 3, 7)
    n_in = width
    for stage in range(STAGES):
        n_out = width * 2**stage
        for block in range(BLOCKS):
            name = f"layer{stage + 1}.{block}"
            add(f"{name}.conv1", f"{name}.bn1", n_out, n_in, 3)
            add(f"{name}.conv2", f"{name}.bn2", n_out, n_out, 3)
            if n_in != n_out:
                add(f"{name}.downsample.0", f"{name}.downsample.1", n_out, n_in, 1)
            n_in = n_out
    weight, bias = HEAD_TENSORS
    shapes |= {weight: (n_classes, n_in), bias: (n_classes,)}
    return {
        name: TensorType("I64" if name.endswith(COUNTER) else "F32", shape)
        for name, shape in shapes.items()
    }


def find_fault(tensors: Mapping[str, TensorType], n_classes: int) -> str:
    """Return why tensors do not form a ResNet-18 for `n_classes` classes, or "" if they do.

    Any width is accepted here, but torch later loads only torchvision's width.
    """
    first = tensors.get("conv1.weight", TensorType("F32", ()))
    return _find_difference(tensors, resnet18(n_classes, next(iter(first.shape), 0)))


def find_body_fault(tensors: Mapping[str, TensorType]) -> str:
    """Return why tensors do not form a ResNet-18 without its last layer, or "" if they do.

    Any width is accepted, as in `find_fault`.
    """
    first = tensors.get("conv1.weight", TensorType("F32", ()))
    whole = resnet18(2, next(iter(first.shape), 0))
    body = {name: wanted for name, wanted in whole.items() if name not in HEAD_TENSORS}
    return _find_difference(tensors, body)


def find_head_fault(tensors: Mapping[str, TensorType], n_classes: int) -> str:
    """Return why tensors do not form a last layer for `n_classes` classes, or "" if they do."""
    weight, bias = HEAD_TENSORS
    width = tensors[weight].shape[-1:] if weight in tensors else ()
    expected = {
        weight: TensorType("F32", (n_classes, *(width or (0,)))),
        bias: TensorType("F32", (n_classes,)),
    }
    return _find_difference(tensors, expected)


def _find_difference(tensors: Mapping[str, TensorType], expected: Mapping[str, TensorType]) -> str:
    for name, wanted in expected.items():
        if name not in tensors:
            return f"{name} is missing"
        if tensors[name] != wanted:
            return f"{name} is {_describe(tensors[name])}, not {_describe(wanted)}"
    foreign = sorted(tensors.keys() - expected.keys())
    return f"{foreign[0]!r:.80} does not belong to it" if foreign else ""


def _describe(tensor: TensorType) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
