"""Check the profile ray: its nodes join with the token, and a driver in the trainer finds them.

Label Studio is not needed, so the stack here consists of Redis, Ray and the trainer.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.compose.docker import compose_command, docker
from tests.compose.conftest import REPORT, Team, clone
from tests.compose_rules import RAY_SERVICES
from tests.patience import wait_for

N_WORKERS = 2
FIND = """
import json
from dataclasses import asdict
from backend.base.errors import ScaleError
from backend.scale.cluster import connected
try:
    with connected("auto"):
        from backend.scale.nodes import matching_nodes
        print(json.dumps([asdict(node) for node in matching_nodes()]))
except ScaleError as error:
    raise SystemExit(str(error))
"""
TRY_ONCE = "RAY_gcs_server_port_wait_time_s=1"  # a node would try again for minutes
CONNECT = "import socket; socket.create_connection(('{}', {}), 5)"


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Team]:
    """A head, two workers and a trainer."""
    lead = clone(place)
    (lead.folder / ".env").write_text("COMPOSE_PROFILES=ray\n")
    lead.make("secrets")
    try:
        lead.compose("build", "backend", "ray-head")
        for image in ("tightloop:0.1.0", "tightloop-ray:0.1.0"):
            size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
            REPORT[f"image {image}"] = f"{size / 1e9:.2f} GB"
        lead.compose("up", "-d", "--no-deps", "redis")
        lead.wait_until_healthy("redis")
        began = time.monotonic()
        scale = f"ray-worker={N_WORKERS}"
        lead.compose("up", "-d", "--no-deps", "--scale", scale, *RAY_SERVICES)
        wait_for_workers(lead)
        REPORT["starting Ray until the driver sees two workers"] = (
            f"{time.monotonic() - began:.0f} s"
        )
        yield lead
    finally:
        lead.run(*compose_command(), "down", "-v", "--remove-orphans")
    assert lead.left() == []


def in_trainer(team: Team, code: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in the trainer's container, with changes to its environment."""
    changed = [
        argument for name, value in changes.items() for argument in ("-e", f"{name}={value}")
    ]
    trainer = team.container("trainer-ray")
    return team.run("docker", "exec", *changed, trainer, "python", "-c", code)


def wait_for_workers(team: Team) -> list[dict[str, Any]]:
    """Return all nodes, whose versions match, as soon as the workers are among them."""

    def found() -> list[dict[str, Any]] | None:
        done = in_trainer(team, FIND)
        nodes = json.loads(done.stdout) if done.returncode == 0 else []
        return nodes if [node["cpus"] for node in nodes].count(1) == N_WORKERS else None

    return wait_for(found, "two workers", every_s=1, show=team.logs)


def test_the_head_and_the_trainer_offer_no_cpu(cluster: Team) -> None:
    nodes = wait_for_workers(cluster)
    assert sorted(node["cpus"] for node in nodes) == [0, 0, 1, 1]
    assert [node["gpus"] for node in nodes] == [0, 0, 0, 0]


def test_all_services_become_healthy(cluster: Team) -> None:
    cluster.wait_until_healthy(*RAY_SERVICES)


def test_a_driver_with_another_token_is_refused(cluster: Team) -> None:
    refused = in_trainer(cluster, FIND, RAY_AUTH_TOKEN="0" * 64)
    assert refused.returncode == 1
    assert "refused this machine's token" in refused.stderr


@pytest.mark.parametrize(
    ("mode", "token"), [("token", "0" * 64), ("token", ""), ("disabled", "")], ids=str
)
def test_a_node_without_the_token_cannot_join(cluster: Team, mode: str, token: str) -> None:
    before = len(wait_for_workers(cluster))
    changes = (f"RAY_AUTH_MODE={mode}", f"RAY_AUTH_TOKEN={token}", TRY_ONCE)
    run = ("run", "--rm", "--no-deps", "-T", *(part for c in changes for part in ("-e", c)))
    # A node that is let in would run until someone stops it.
    joined = cluster.run("timeout", "120", *compose_command(), *run, "ray-worker")
    assert joined.returncode != 0
    printed = joined.stdout + joined.stderr
    assert "InvalidAuthToken" in printed or "no authentication token was found" in printed
    assert len(wait_for_workers(cluster)) == before


def test_a_head_without_a_token_says_how_to_make_one(cluster: Team) -> None:
    run = ("run", "--rm", "--no-deps", "-T", "-e", "RAY_AUTH_TOKEN=", "ray-head")
    refused = cluster.run(*compose_command(), *run)
    assert refused.returncode != 0
    assert re.search("RAY_AUTH_TOKEN: .*is missing .*: run `make secrets`", refused.stderr)


@pytest.mark.parametrize("service", RAY_SERVICES)
def test_ray_is_locked_in(cluster: Team, service: str) -> None:
    inspected = cluster.inspect(service)
    assert not any(inspected["NetworkSettings"]["Ports"].values())
    host = inspected["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert cluster.compose("exec", "-T", service, "id", "-u").strip() == "1000"


def test_other_networks_do_not_reach_ray(cluster: Team) -> None:
    [address] = [
        network["IPAddress"]
        for network in cluster.inspect("ray-head")["NetworkSettings"]["Networks"].values()
    ]
    connect = CONNECT.format(address, 6379)
    image = ("--entrypoint", "python", "tightloop-ray:0.1.0", "-c", connect)
    inside = f"{cluster.folder.name}_inside"
    assert cluster.run("docker", "run", "--rm", "--network", inside, *image).returncode == 0
    assert cluster.run("docker", "run", "--rm", *image).returncode != 0


def test_the_token_appears_in_no_list_of_processes(cluster: Team) -> None:
    shown = [docker("top", cluster.container(name), "-eo", "pid,args") for name in RAY_SERVICES]
    assert all("raylet" in processes for processes in shown)
    assert cluster.env["RAY_AUTH_TOKEN"] not in "".join(shown)


def test_ray_keeps_its_object_store_in_shared_memory(cluster: Team) -> None:
    mapped = cluster.compose("exec", "-T", "ray-worker", "df", "--output=used", "/dev/shm")
    assert int(mapped.split()[1]) > 0
    assert "/dev/shm" not in docker("logs", cluster.container("ray-worker"))  # Ray would warn


def test_after_the_head_was_killed_every_node_joins_again(cluster: Team) -> None:
    docker("kill", cluster.container("ray-head"))
    docker("start", cluster.container("ray-head"))
    began = time.monotonic()
    wait_for_workers(cluster)
    REPORT["killed head until the driver sees two workers"] = f"{time.monotonic() - began:.0f} s"
