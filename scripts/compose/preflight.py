"""Find settings that would stop `docker compose up` or silently have no effect."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from scripts.compose.docker import DockerError, compose_command, docker
from scripts.compose.env import ENV, docker_has_gpus

EXAMPLE, COMPOSE_FILE = Path(".env.example"), Path("docker-compose.yml")
IMAGE = "tightloop:0.1.0"
# The settings of the published ports, with their defaults.
PORTS = {"LABEL_STUDIO_PORT": "8080", "DASHBOARD_PORT": "9090"}
# Space needed to download and build all images, and later for data only.
GB_TO_BUILD, GB_TO_RUN = 20, 2
NOT_OURS = re.compile(
    r"COMPOSE_\w+|DOCKER_\w+|BUILDKIT_\w+|\w+_PROXY|\w+_proxy|VAR_DIR|DETACH"
    r"|AWS_\w+|FSSPEC_\w+|GOOGLE_\w+"  # credentials of buckets
)


def find_problems(env: dict[str, str]) -> Iterator[str]:
    """Yield a sentence for each problem that would keep the stack from starting."""
    known = _known()
    for name in env:
        if name not in known and not NOT_OURS.fullmatch(name):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "it may come from an older version."
            yield f"{ENV} sets {name}, which does not exist: {hint} Correct or delete the line"
    folder = env.get("HOST_FOLDER")
    if folder and not (Path(folder).is_absolute() and Path(folder).is_dir()):
        # Docker would create an empty folder.
        yield f"HOST_FOLDER={folder} is not a folder on this machine: give its absolute path"
    try:
        compose_command()
        docker("version", "--format", "{{.Server.Version}}")
        yield from _machine_problems({**env, **os.environ})
    except DockerError as error:
        yield str(error)


def find_notes(env: dict[str, str]) -> Iterator[str]:
    """Yield a sentence for each setting that is allowed but may be a mistake."""
    in_compose = COMPOSE_FILE.read_text()
    for name in sorted(set(env) & _known()):
        if not re.search(rf"\$\{{{name}\b|^ +{name}:$", in_compose, re.MULTILINE):
            yield f"{ENV} sets {name}, which only `make up` uses: compose sets its own"
    if env.get("COMPOSE_PROFILES") == "cpu" and shutil.which("nvidia-smi"):
        yield (
            "this machine has a GPU: to use it, install the NVIDIA Container Toolkit and set "
            "COMPOSE_PROFILES=gpu"
        )


def _known() -> set[str]:
    return set(re.findall(r"^#? ?([A-Z][A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))


def _machine_problems(env: dict[str, str]) -> Iterator[str]:
    if "gpu" in env.get("COMPOSE_PROFILES", "").split(",") and not docker_has_gpus():
        yield (
            "COMPOSE_PROFILES=gpu, but Docker cannot give a GPU to a container: install the NVIDIA "
            "Container Toolkit, or set COMPOSE_PROFILES=cpu"
        )
    address = env.get("BIND") or "127.0.0.1"
    folder = os.environ.get(
        "PWD", str(Path.cwd())
    )  # compose records this path, without resolving symbolic links
    ours = f"label=com.docker.compose.project.working_dir={folder}"
    for name, default in PORTS.items():
        port = env.get(name) or default
        if not docker("ps", "-q", "--filter", f"publish={port}", "--filter", ours):
            reason = _why_not_free(address, port)
            if reason:
                yield f"{address}:{port} cannot be used ({reason}): set BIND or {name}"
    needed_gb = GB_TO_RUN if docker("images", "-q", IMAGE) else GB_TO_BUILD
    root = Path(docker("info", "--format", "{{.DockerRootDir}}"))
    if root.exists():  # otherwise Docker runs in a virtual machine
        free_gb = shutil.disk_usage(root).free / 1e9
        if free_gb < needed_gb:
            yield (
                f"{root} has {free_gb:.0f} GB free, but {needed_gb} GB are needed: free some space "
                "(`docker system df` shows what Docker uses)"
            )


def _why_not_free(address: str, port: str) -> str:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, int(port)))
    except ValueError:
        return "not a port"
    except PermissionError:  # we may not use ports below 1024, but Docker may
        return ""
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""
