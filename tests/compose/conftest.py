"""Run compose stacks in clones of this repository, with the commands that a team lead types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.compose.docker import DockerError, compose_command, docker
from scripts.compose.env import read_env
from scripts.compose.preflight import IMAGE
from scripts.research.temporary_stack import free_ports
from tests.patience import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[2]
OURS = ("backend", "dashboard", "trainer-cpu", "ranker", "clock")
SERVICES = ("postgres", "redis", "label-studio", *OURS)
SMALL = {
    "POOL": "digits",
    "WEIGHTS": "none",
    "IMAGE_SIZE": "32",
    "SEED_LABELS": "60",
    "TRAIN": "full",  # tests count training runs
    "ADAPT": "off",
    "OVERLAP": "1",  # tests count annotations
    "BATCH_SIZE": "10",
    "RETRAIN_AFTER": "10",
    "RECONCILE_EVERY": "5",
    "LABEL_STUDIO_TASK_LOCK_TTL": "60",
    "LOG_FORMAT": "json",
}
REPORT: dict[str, str] = {}  # measurements that are printed at the end


@dataclass(frozen=True)
class Team:
    """A clone of this working tree, whose stack has the folder's name."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # in addition to PATH and HOME

    @property
    def env(self) -> dict[str, str]:
        """The variables in the clone's .env."""
        return read_env(self.folder / ".env")

    @property
    def url(self) -> str:
        """Label Studio's address for annotators."""
        return f"http://127.0.0.1:{self.env['LABEL_STUDIO_PORT']}"

    @property
    def dashboard_url(self) -> str:
        """The dashboard's address on this machine."""
        return f"http://127.0.0.1:{self.env['DASHBOARD_PORT']}"

    @property
    def lead(self) -> tuple[str, str]:
        """The dashboard's user name and password."""
        return "tightloop", self.env["DASHBOARD_PASSWORD"]

    @property
    def info(self) -> dict[str, Any]:
        """Address and token of the first user; only Label Studio can be reached."""
        token = self.env["LABEL_STUDIO_API_KEY"]
        return {"label_studio_url": self.url, "api_key": token, "project_id": 1, "backend_url": ""}

    def run(self, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this clone."""
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "DOCKER_CONFIG")}
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**kept, **self.environment, **changes},
            capture_output=True,
            text=True,
            check=False,
        )

    def make(self, *arguments: str) -> str:
        """Run `make …` and return its output; fail the test if the command fails."""
        done = self.run("make", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def compose(self, *arguments: str) -> str:
        """Run `docker compose …` and return its output; fail the test if the command fails."""
        done = self.run(*compose_command(), *arguments)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def container(self, service: str) -> str:
        """Return the id of a service's container, or of the first if it has several."""
        return self.compose("ps", "-q", service).split()[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what `docker inspect` reports on a service's container."""
        return dict(json.loads(docker("inspect", self.container(service)))[0])

    def wait_until_healthy(self, *services: str) -> None:
        """Wait until every health check of these services passes."""
        for service in services:
            wait_for(
                lambda: self.inspect(service)["State"]["Health"]["Status"] == "healthy",  # noqa: B023
                f"{service} healthy",
            )

    def status(self, project_id: int = 1) -> dict[str, Any]:
        """Request GET /status from outside the stack, and return its report on a project."""
        response = httpx.get(f"{self.dashboard_url}/status", auth=self.lead, timeout=PATIENCE_S)
        projects = response.raise_for_status().json()["projects"]
        return dict(next(p for p in projects if p["project_id"] == project_id))

    def left(self) -> list[str]:
        """Return the containers, volumes and networks that this stack left behind."""
        ours = f"label=com.docker.compose.project={self.folder.name}"
        found = [
            docker(*kind, "--filter", ours)
            for kind in (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
        ]
        return " ".join(found).split()

    def logs(self) -> str:
        """Return the last log lines of every service."""
        return self.run(*compose_command(), "logs", "--no-color", "--tail", "15").stdout


def clone(parent: Path) -> Team:
    """Copy the files that git tracks or would add into a new folder."""
    folder = Path(tempfile.mkdtemp(prefix="tightloop-test-", dir=parent))
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return Team(folder)


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """Provide the folder for clones; without Docker, the tests fail here."""
    try:
        engine = docker("version", "--format", "{{.Server.Version}}")
        REPORT["Docker"] = f"{engine}, {docker_compose_version()}"
    except DockerError as error:
        pytest.fail(str(error), pytrace=False)
    with tempfile.TemporaryDirectory(prefix="tightloop-compose-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def team(place: Path) -> Iterator[Team]:
    """A running stack, started with the README's commands."""
    lead = clone(place)
    ports = dict(zip(("LABEL_STUDIO_PORT", "DASHBOARD_PORT"), map(str, free_ports(2)), strict=True))
    settings = {**SMALL, **ports, "COMPOSE_PROFILES": "cpu"}
    (lead.folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
    lead.make("secrets")
    began = time.monotonic()
    lead.compose("build")
    REPORT["first build"] = f"{time.monotonic() - began:.0f} s (seconds if it is cached)"
    began = time.monotonic()
    try:
        lead.compose("up", "-d")
        REPORT['`up -d` to "label here"'] = f"{time.monotonic() - began:.0f} s"
        for image in (IMAGE, *(lead.inspect(s)["Config"]["Image"] for s in SERVICES[:3])):
            size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
            REPORT[f"image {image}"] = f"{size / 1e9:.2f} GB"
        yield lead
    finally:
        lead.run(*compose_command(), "down", "-v", "--remove-orphans")
    assert lead.left() == []


def docker_compose_version() -> str:
    """Return the version of Docker Compose."""
    done = subprocess.run(
        [*compose_command(), "version"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the measurements."""
    if REPORT:
        terminalreporter.section("the compose stack")
    for name, value in REPORT.items():
        terminalreporter.line(f"{name:<40} {value}")
