"""Test which device each value of DEVICE gives."""

from __future__ import annotations

import pytest
import torch

from backend.base.errors import DeviceError
from backend.network.device import find_device


def test_auto_is_a_gpu_if_there_is_one_and_the_cpu_otherwise() -> None:
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_cpu_is_always_the_cpu() -> None:
    assert find_device("cpu").type == "cpu"


@pytest.mark.gpu
def test_cuda_is_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    assert find_device("cuda").type == "cuda"


def test_cuda_without_a_gpu_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"DEVICE=cuda.*nvidia-smi.*DEVICE=cpu"):
        find_device("cuda")
