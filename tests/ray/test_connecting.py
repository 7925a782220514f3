"""Connecting to a cluster, and saying why that is impossible."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.experimental import internal_kv

from backend.base.errors import ScaleError
from backend.scale.cluster import OBJECT_STORE_BYTES, connected
from backend.scale.nodes import alive_nodes
from tests.patience import wait_for
from tests.ray import drivers

METADATA, NAMESPACE = b"CLUSTER_METADATA", b"cluster"  # where Ray keeps its release
IN_TIME_S = 150  # a minute on an idle machine; Ray alone takes more than five
TOKEN_WRONG = "0" * 64
OWN_CLUSTER = """
import json, os
import ray
from backend.scale.cluster import connected
from backend.scale.nodes import matching_nodes

with connected(""):
    [node] = matching_nodes()
    resources = ray.cluster_resources()
    [about] = ray.nodes()
    found = {
        "folder": about["RayletSocketName"].partition("/session_")[0],
        "cpus": node.cpus,
        "store": resources["object_store_memory"],
        "namespace": ray.get_runtime_context().namespace,
        "usage": os.environ["RAY_USAGE_STATS_ENABLED"],
        "auth": os.environ["RAY_AUTH_MODE"],
    }
print(json.dumps(found))
"""
CONNECT = """
import sys
from backend.base.errors import ScaleError
from backend.scale.cluster import connected

try:
    with connected(sys.argv[1]):
        print("connected")
except ScaleError as error:
    print(error)
"""
# Ray looks for clusters among all processes of this machine, where it would find the tests' own.
ALONE = """
from ray._private import services

services.find_gcs_addresses = lambda: set()
services.find_gcs_addresses.cache_clear = lambda: None
"""
CONNECT_AND_WAIT = """
import sys, time
from backend.scale.cluster import connected

with connected(sys.argv[1]):
    print("connected", flush=True)
    time.sleep(3600)
"""


def tries(address: str) -> str:
    """Return the message of an attempt to connect."""
    with pytest.raises(ScaleError) as caught, connected(address):
        pass
    assert not ray.is_initialized()
    return str(caught.value)


@pytest.mark.short
def test_a_cluster_of_its_own_offers_this_machine_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    found = json.loads(drivers.run(OWN_CLUSTER, HOME=str(tmp_path)))
    folder = Path(found.pop("folder"))
    assert folder.parent == Path("/tmp")
    assert not folder.exists()
    assert found == {
        "cpus": os.cpu_count(),
        "store": OBJECT_STORE_BYTES,
        "namespace": "tightloop",
        "usage": "0",
        "auth": "token",
    }
    assert not list(tmp_path.iterdir())  # Ray alone would write a token there


@pytest.mark.short
def test_this_machine_joins_the_cluster_at_an_address_and_offers_it_nothing(cluster: Any) -> None:
    with connected(cluster.address):
        assert sorted(node.cpus for node in alive_nodes()) == [0, 1, 1]
        with connected(cluster.address):  # the same connection
            assert len(alive_nodes()) == 3
        assert ray.is_initialized()
    assert not ray.is_initialized()
    with connected("auto"):
        wait_for(lambda: len(alive_nodes()) == 2, "the end of the node that joined")


@pytest.mark.short
def test_auto_is_the_cluster_to_which_this_machine_belongs(cluster: Any) -> None:
    with connected("auto"):
        assert ray.get_runtime_context().gcs_address == cluster.address
        assert [node.cpus for node in alive_nodes()] == [1, 1]


@pytest.mark.short
@pytest.mark.usefixtures("cluster")
def test_sigterm_ends_the_process_as_before() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with connected("auto"):
        assert signal.getsignal(signal.SIGTERM) is former


@pytest.mark.short
@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:9", "Connection refused"), ("no-such-host.invalid:6379", "not known")],
)
def test_an_address_where_nothing_listens_is_named_within_ten_seconds(
    address: str, why: str
) -> None:
    began = time.monotonic()
    message = tries(address)
    assert time.monotonic() - began < 10
    assert message.startswith(f"no Ray cluster answers at RAY_ADDRESS={address} (")
    assert why in message
    assert "start its head with `ray start --head`" in message


def test_another_service_at_the_address_is_told_from_a_cluster_in_time() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        assert "what answers is not the head of a Ray cluster" in tries(address)
        assert time.monotonic() - began < IN_TIME_S


def test_auto_without_a_cluster_on_this_machine_is_explained(tmp_path: Path) -> None:
    message = drivers.run(ALONE + CONNECT, "auto", RAY_TMPDIR=str(tmp_path))
    assert message.startswith("RAY_ADDRESS=auto, but no Ray node runs on this machine: run `ray st")


def test_auto_with_a_cluster_that_is_gone_is_explained_in_time(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:9")
    began = time.monotonic()
    message = drivers.run(ALONE + CONNECT, "auto", RAY_TMPDIR=str(tmp_path))
    assert "to which this machine belonged does not answer: run `ray stop`" in message
    assert time.monotonic() - began < IN_TIME_S


@pytest.mark.short
@pytest.mark.parametrize(
    "environment",
    [{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN_WRONG}, {}],
    ids=["wrong token", "no token"],
)
def test_without_the_clusters_token_the_message_says_where_to_set_it(
    cluster: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    message = drivers.run(CONNECT, cluster.address, HOME=str(tmp_path), **environment)
    assert message.startswith(f"the Ray cluster at {cluster.address} refused this machine's token")
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH" in message
    assert TOKEN_WRONG not in message


@pytest.mark.parametrize("joins", [True, False])
def test_another_release_of_ray_is_named(cluster: Any, joins: bool) -> None:
    address = cluster.address if joins else "auto"
    with connected("auto"):
        ours = internal_kv._internal_kv_get(METADATA, namespace=NAMESPACE)
        write_metadata(ours.replace(ray.__version__.encode(), b"2.59.9"))
        try:
            message = drivers.run(CONNECT, address, **drivers.of_tests())
        finally:
            write_metadata(ours)
    assert message.startswith(f"the Ray cluster at {address} runs Ray 2.59.9 on Python 3.")
    assert f"and this machine Ray {ray.__version__} on Python 3." in message


@pytest.mark.parametrize("where", ["own cluster", "cluster"])
def test_a_killed_process_takes_along_what_it_started(
    where: str, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("cluster").address if where == "cluster" else ""
    with drivers.start(CONNECT_AND_WAIT, address, **drivers.of_tests()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 4
        process.kill()
    wait_for(lambda: not [p for p in started if is_running(p)], "the end of Ray's processes")


def write_metadata(value: bytes) -> None:
    internal_kv._internal_kv_put(METADATA, value, overwrite=True, namespace=NAMESPACE)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
