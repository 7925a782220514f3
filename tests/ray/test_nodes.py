"""Nodes that do not match this machine, and nodes that die."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from backend.base.errors import ScaleError
from backend.scale import self_report
from backend.scale.cluster import connected
from backend.scale.nodes import alive_nodes, matching_nodes
from tests.ray.conftest import ROOT, add_node, another_node


@pytest.fixture(autouse=True)
def _another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Connect from a folder without code, because Ray has nodes import from the driver's first."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def other_code(tmp_path: Path) -> Path:
    """A copy of the code in which one file differs."""
    copy = tmp_path / "other"
    shutil.copytree(
        ROOT / "backend", copy / "backend", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (copy / "backend/base/errors.py").open("a") as file:
        file.write("# changed\n")
    return copy


@pytest.fixture
def other_torch(tmp_path: Path) -> Path:
    """A folder in which torch claims another version."""
    found = tmp_path / "other/torch-2.14.9.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.14.9\n")
    return found.parent


def message_of_mismatch() -> str:
    with connected("auto"), pytest.raises(ScaleError) as caught:
        matching_nodes()
    return str(caught.value)


@pytest.mark.short
@pytest.mark.usefixtures("cluster")
def test_nodes_with_the_same_code_and_torch_match() -> None:
    with connected("auto"):
        assert [(node.cpus, node.gpus) for node in matching_nodes()] == [(1, 0), (1, 0)]


@pytest.mark.short
def test_a_node_with_other_code_is_named_with_both_versions(cluster: Any, other_code: Path) -> None:
    with another_node(cluster, str(other_code)):
        [line] = message_of_mismatch().splitlines()
    node, _, rest = line.partition(" runs Tightloop ")
    assert node == f"the Ray node {os.uname().nodename} ({cluster.head_node.node_ip_address})"
    versions, _, advice = rest.partition(": ")
    other, _, own = versions.partition(", and this machine ")
    assert own == self_report.code_version() != other
    assert len(other) == len(own)
    assert advice.startswith("use the same image, or the same files and ray.lock, on both")


@pytest.mark.short
def test_a_node_with_another_torch_is_named_with_both_versions(
    cluster: Any, other_torch: Path
) -> None:
    with another_node(cluster, f"{other_torch}:{ROOT}"):
        [line] = message_of_mismatch().splitlines()
    assert f" runs torch 2.14.9, and this machine {self_report.torch_version()}: use the" in line


def test_a_node_without_our_code_is_named(cluster: Any) -> None:
    with another_node(cluster, "/nowhere"):
        [line] = message_of_mismatch().splitlines()
    assert " cannot import Tightloop: start Ray there from Tightloop's image, or with" in line


def test_a_node_that_dies_while_it_is_asked_is_left_out(cluster: Any) -> None:
    dying = add_node(cluster)
    with connected("auto"):
        assert len(matching_nodes()) == 3
        cluster.remove_node(dying, allow_graceful=False)
        assert len(alive_nodes()) == 3  # Ray does not know yet
        assert len(matching_nodes()) == 2
        assert len(alive_nodes()) == 2
