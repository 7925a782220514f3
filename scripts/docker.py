"""Docker's commands as we call them, in either spelling of compose; standard library alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from typing import IO, Any


class DockerError(Exception):
    """Docker is not there, or refused; the message says what to do."""


def docker(*arguments: str) -> str:
    """What `docker …` prints."""
    return _run(["docker", *arguments]).decode().strip()


def compose(
    *arguments: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
) -> str:
    """What `docker compose …` prints, unless it is sent to a file."""
    return _run([*compose_command(), *arguments], stdin=stdin, stdout=stdout).decode().strip()


@cache
def compose_command() -> tuple[str, ...]:
    """`docker compose`, or `docker-compose` where only that is there."""
    if not shutil.which("docker"):
        raise DockerError(
            "Docker is not installed here: install Docker Engine and its compose plugin"
        )
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    raise DockerError("docker compose is missing: install the compose plugin of Docker")


def _run(command: list[str], **options: Any) -> bytes:
    options = {"stdout": subprocess.PIPE, **{k: v for k, v in options.items() if v is not None}}
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, check=False, **options)
    except FileNotFoundError:
        raise DockerError(f"{command[0]} is not installed here") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        if re.search("Cannot connect to the Docker daemon|docker daemon socket|docker.sock", said):
            said = "Docker does not answer: start it, and see that you may use it (group docker)"
        raise DockerError(f"`{' '.join(command[:4])}` failed: {said[-500:]}")
    return done.stdout or b""
