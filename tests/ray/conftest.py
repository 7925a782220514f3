"""Give the tests on Ray a cluster of two nodes on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE_S
from tests.unit.images.buckets import bucket, s3

__all__ = ["bucket", "s3"]

ROOT = Path(__file__).parents[2]
# The path is short: those of sockets have a limit.
FOLDER = tempfile.mkdtemp(prefix="tightloop-test-ray-", dir="/tmp")
# Set these before Ray is imported, which reads them. Nobody else can use the tests' cluster, and
# the tests do not find anybody else's.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_TMPDIR": FOLDER,
    "RAY_ADDRESS": "",
}


def pytest_configure(config: pytest.Config) -> None:
    """Ignore what Ray's own modules warn about each other."""
    for category in ("DeprecationWarning", "FutureWarning", "UserWarning"):
        config.addinivalue_line("filterwarnings", f"ignore::{category}:ray")
    config.addinivalue_line("filterwarnings", "ignore::ray.util.annotations.RayDeprecationWarning")


def pytest_unconfigure() -> None:
    """Remove the logs of all clusters."""
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A running cluster of two nodes with a core each; `cluster.address` is a value of RAY_ADDRESS.

    A test that changes it restores it.
    """
    from ray.cluster_utils import Cluster

    running = Cluster()
    try:
        for _ in range(2):
            add_node(running)
        yield running
    finally:
        running.shutdown()


def add_node(cluster: Any, path: str = str(ROOT), **options: Any) -> Any:
    """Add a node whose tasks import the packages in `path`, as PYTHONPATH lists them."""
    return cluster.add_node(
        num_cpus=1, include_dashboard=False, env_vars={"PYTHONPATH": path}, **options
    )


@contextmanager
def another_node(cluster: Any, path: str) -> Iterator[None]:
    """Run one more node for the time of the block."""
    node = add_node(cluster, path)
    try:
        yield
    finally:
        cluster.remove_node(node)
        cluster.wait_for_nodes(timeout=PATIENCE_S)
