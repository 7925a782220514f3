"""How many processes share a step."""

from __future__ import annotations

from typing import Literal

import pytest

from backend.base.errors import DeviceError, ScaleError
from backend.scale.nodes import Node, Workers, scoring_workers

pytestmark = pytest.mark.short
CPUS_ONLY = [Node("a", "a", 8, 0), Node("b", "b", 4, 0)]
WITH_GPUS = [Node("a", "a", 64, 8), Node("b", "b", 16, 4), Node("c", "c", 32, 0)]
OFFERS_NOTHING = [Node("a", "a", 0, 0)]


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_each_core_has_a_worker(device: Literal["auto", "cpu", "cuda"]) -> None:
    assert scoring_workers([*CPUS_ONLY, *OFFERS_NOTHING], device) == Workers(12, 1, 0)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_gpu_has_a_worker_with_as_many_cores_as_every_node_has_for_its_gpus(
    device: Literal["auto", "cpu", "cuda"],
) -> None:
    assert scoring_workers(WITH_GPUS, device) == Workers(12, 4, 1)  # 64 / 8 = 8, and 16 / 4 = 4


def test_gpus_stay_idle_if_the_device_is_the_cpu() -> None:
    assert scoring_workers(WITH_GPUS, "cpu") == Workers(112, 1, 0)


def test_a_gpu_that_no_node_has_is_refused() -> None:
    with pytest.raises(DeviceError, match="no node of the Ray cluster has a GPU"):
        scoring_workers(CPUS_ONLY, "cuda")


def test_a_cluster_that_offers_nothing_is_refused() -> None:
    with pytest.raises(ScaleError, match="no node of the Ray cluster offers a CPU: run `ray start"):
        scoring_workers(OFFERS_NOTHING, "auto")
