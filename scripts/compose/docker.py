"""Run Docker and Docker Compose (v1 or v2). Needs only the standard library."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from typing import IO

from backend.base.errors import TightloopError

DOCKER_IS_DOWN = re.compile(
    "Cannot connect to the Docker daemon|docker.(daemon.socket|sock)|fetching server API version"
)


class DockerError(TightloopError):
    """Docker is not installed or reported an error; the message explains what to do."""


def docker(*arguments: str) -> str:
    """Return the output of `docker …`."""
    return _run("docker", *arguments)


def compose(
    *arguments: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
) -> str:
    """Run `docker compose …`; return the output unless it is written to a file."""
    return _run(*compose_command(), *arguments, stdin=stdin, stdout=stdout)


@cache
def compose_command() -> tuple[str, ...]:
    """Return `docker compose`, or `docker-compose` if the plugin is missing."""
    if not shutil.which("docker"):
        raise DockerError("Docker is not installed: install Docker Engine and its compose plugin")
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    raise DockerError("docker compose is missing: install Docker's compose plugin")


def _run(*command: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> str:
    out = subprocess.PIPE if stdout is None else stdout
    try:
        done = subprocess.run(command, stdin=stdin, stdout=out, stderr=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise DockerError(f"{command[0]} is not installed") from None
    errors = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        if DOCKER_IS_DOWN.search(errors):
            errors = "cannot reach Docker: start it, and check that you may use it (group docker)"
        raise DockerError(f"`{' '.join(command[:4])}` failed: {errors[-500:]}")
    if stdout is not None and errors:
        print(errors, file=sys.stderr)
    return (done.stdout or b"").decode().strip()
