"""Pin images with `make digests` against a real registry on loopback; build and start them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from scripts.compose.docker import compose_command, docker
from scripts.compose.env import read_env
from scripts.research.temporary_stack import free_ports
from tests.compose.conftest import ROOT, Team, clone
from tests.patience import PATIENCE_S, wait_for

CONFIG = """\
version: 0.1
storage: {{ filesystem: {{ rootdirectory: {folder} }} }}
http: {{ addr: 127.0.0.1:{port} }}
"""
# The tag in the registry that each variable names, and the local image to push as this tag.
IMAGES = {
    "LABEL_STUDIO_IMAGE": ("label-studio:1", "redis:7-alpine"),  # only pulled, so any image will do
    "POSTGRES_IMAGE": ("postgres:17", "redis:7-alpine"),
    "REDIS_IMAGE": ("redis:7", "redis:7-alpine"),
    "PYTHON_IMAGE": ("python:3.11", "python:3.11-slim-bookworm"),
}


@dataclass
class Registry:
    """A registry that contains IMAGES; a test may stop it."""

    address: str
    process: subprocess.Popen[bytes]

    def push(self, image: str, tag: str) -> None:
        """Push a local image under a tag."""
        docker("tag", image, f"{self.address}/{tag}")
        docker("push", f"{self.address}/{tag}")

    def digest(self, tag: str) -> str:
        """Ask the registry for the digest of a tag."""
        name, _, version = tag.partition(":")
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        url = f"http://{self.address}/v2/{name}/manifests/{version}"
        response = httpx.head(url, headers={"Accept": kind}).raise_for_status()
        return response.headers["Docker-Content-Digest"]

    def stop(self) -> None:
        """Stop the registry; stopping it twice does no harm."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def is_up(self) -> bool:
        """Return whether the registry accepts requests."""
        try:
            httpx.get(f"http://{self.address}/v2/").raise_for_status()
        except httpx.TransportError:
            return False
        return True


@pytest.fixture
def registry(place: Path, tmp_path: Path) -> Iterator[Registry]:  # noqa: ARG001  # asks for Docker
    unpacked = ROOT / "var" / "registry" / "docker-registry"
    executable = shutil.which("docker-registry") or (str(unpacked) if unpacked.exists() else None)
    if executable is None:
        pytest.fail("docker-registry is missing: run `make registry`", pytrace=False)
    [port] = free_ports(1)
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(folder=tmp_path / "images", port=port))
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen([executable, "serve", config], stdout=log, stderr=log)
    running = Registry(f"127.0.0.1:{port}", process)
    try:
        log_file = tmp_path / "registry.log"
        wait_for(running.is_up, "the registry", show=log_file.read_text)
        for tag, image in IMAGES.values():
            running.push(image, tag)
        yield running
    finally:
        running.stop()
    for kind in ("{{.Repository}}:{{.Tag}}", "{{.Repository}}@{{.Digest}}"):
        named = docker("images", "--digests", "--format", kind).splitlines()
        for name in {name for name in named if name.startswith(running.address)}:
            if "<none>" not in name:
                docker("rmi", "--no-prune", name)


@pytest.fixture
def team(place: Path, registry: Registry) -> Iterator[Team]:
    """A clone that takes its images from this registry."""
    lead = clone(place)
    lead.run("make", "secrets")
    with (lead.folder / ".env").open("a") as env:
        for name, (tag, _) in IMAGES.items():
            env.write(f"{name}={registry.address}/{tag}\n")
    yield lead
    lead.run(*compose_command(), "down", "-v")
    assert lead.left() == []


def test_images_are_pinned_to_the_registrys_digests_and_run_as_pinned(
    team: Team, registry: Registry
) -> None:
    env = team.folder / ".env"
    before = env.read_text()
    printed = team.make("digests")
    pins = {name: f"{registry.address}/{tag}" for name, (tag, _) in IMAGES.items()}
    pins = {n: f"{tag}@{registry.digest(tag.partition('/')[2])}" for n, tag in pins.items()}
    after = read_env(env)
    assert {name: after[name] for name in IMAGES} == pins
    unpinned = env.read_text()
    for pin in pins.values():
        assert f"pinned to {pin}" in printed
        unpinned = unpinned.replace(pin, pin.partition("@")[0])
    assert unpinned == before
    assert team.make("digests").count("already") == len(IMAGES)

    team.compose("up", "-d", "redis")
    team.wait_until_healthy("redis")
    assert team.inspect("redis")["Config"]["Image"] == pins["REDIS_IMAGE"]
    # The pinned Python image equals the default one, so the layers on it are cached.
    team.compose("build", "backend")


def test_a_moved_tag_moves_its_pin_and_without_the_registry_nothing_changes(
    team: Team, registry: Registry
) -> None:
    team.make("digests")
    before = team.env
    registry.push("python:3.11-slim-bookworm", "redis:7")
    assert "REDIS_IMAGE: moved to" in team.make("digests")
    moved = f"{registry.address}/redis:7@{registry.digest('redis:7')}"
    assert team.env == {**before, "REDIS_IMAGE": moved}
    assert before["REDIS_IMAGE"] != moved

    registry.stop()
    text = (team.folder / ".env").read_text()
    refused = team.run("make", "digests")
    assert refused.returncode != 0
    assert "no registry responded: .env is unchanged" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (team.folder / ".env").read_text() == text
