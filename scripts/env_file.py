"""What `docker compose up` needs: secrets, made once into .env; and a look at what is in its way.

    python3 -m scripts.env_file

Needs the standard library alone, so that a server needs nothing but Docker, make and Python 3.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from backend.base.command_line import CommandParser, run
from scripts.docker import DockerError, compose_command, docker

ENV, EXAMPLE, COMPOSE_FILE = Path(".env"), Path(".env.example"), Path("docker-compose.yml")
IMAGE = "tightloop:0.1.0"
PORTS = {"LABEL_STUDIO_PORT": "8080", "DASHBOARD_PORT": "9090"}  # what is published, by default
# Our image, Label Studio's, PostgreSQL's and Redis' with what building them needs; then data.
GB_TO_BUILD, GB_TO_RUN = 20, 2
# A name, and its value in quotes or up to a comment, as compose reads them.
NAME = re.compile(
    r"""^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*("[^"]*"|'[^']*'|.*?)\s*(?:(?:^|(?<=[\s=]))\#.*)?$"""
)
NOT_OURS = re.compile(r"COMPOSE_\w+|DOCKER_\w+|BUILDKIT_\w+|\w+_PROXY|\w+_proxy|VAR_DIR|DETACH")

# What makes a value; "" where it cannot be known yet.
MAKERS: dict[str, Callable[[], str]] = {
    "LABEL_STUDIO_PASSWORD": lambda: secrets.token_urlsafe(12),  # people type it
    "LABEL_STUDIO_API_KEY": lambda: secrets.token_hex(20),  # 40 characters are the most
    "POSTGRES_PASSWORD": lambda: secrets.token_hex(20),
    "REDIS_PASSWORD": lambda: secrets.token_hex(20),  # part of a URL
    "DASHBOARD_REDIS_PASSWORD": lambda: secrets.token_hex(20),
    "BACKEND_PASSWORD": lambda: secrets.token_hex(20),
    "WEBHOOK_SECRET": lambda: secrets.token_hex(20),
    "DASHBOARD_PASSWORD": lambda: secrets.token_urlsafe(12),
    "CONTROL_SECRET": lambda: secrets.token_hex(20),
    "COMPOSE_PROFILES": lambda: choose_profile(),
}


def main() -> int:
    """Write .env, then name everything that is in the way; 1 where something is."""
    CommandParser(description=__doc__).parse_args()
    try:
        made = write_missing(ENV)
    except OSError as error:
        print(f"{ENV} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{ENV}: made {', '.join(made)}" if made else f"{ENV}: all secrets were there already")
    env = read_env(ENV)
    for note in find_notes(env):
        print(f"note: {note}")
    problems = list(find_problems(env))
    for problem in problems:
        print(f"in the way: {problem}", file=sys.stderr)
    if not problems:
        print(f"next: {' '.join(compose_command())} up -d")
    return 1 if problems else 0


def write_missing(path: Path) -> list[str]:
    """Add what has no value yet, change no other line; the names of what was made."""
    there = read_env(path)
    made = {n: value for n, make in MAKERS.items() if not there.get(n) and (value := make())}
    write_values(path, made)
    return list(made)


def write_values(path: Path, values: Mapping[str, str]) -> None:
    """Set names of an env file, each where its last line is or at the end; change no other line."""
    lines = path.read_text().splitlines() if path.exists() else []
    left = dict(values)
    for number in reversed(range(len(lines))):
        found = NAME.match(lines[number])
        if found and found[1] in left:
            lines[number] = f"{found[1]}={left.pop(found[1])}"
    lines += [f"{name}={value}" for name, value in left.items()]
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text("\n".join(lines) + "\n")
    draft.replace(path)


def read_env(path: Path) -> dict[str, str]:
    """Names and values of an env file, quotes taken off."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [match for line in lines if (match := NAME.match(line))]
    return {match[1]: match[2].strip("\"'") for match in found}


def find_problems(env: dict[str, str]) -> Iterator[str]:
    """One sentence for each thing that would stop the stack, or quietly do nothing."""
    known = _known()
    for name in env:
        if name not in known and not NOT_OURS.fullmatch(name):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"perhaps {near[0]} is meant" if near else "an older version may have known it"
            yield f"{ENV} sets {name}, which does not exist: {hint}; correct or delete the line"
    folder = env.get("HOST_FOLDER")
    if folder and not (Path(folder).is_absolute() and Path(folder).is_dir()):
        # Docker would make an empty one.
        yield f"HOST_FOLDER={folder} is no folder of this machine: give its whole path"
    try:
        compose_command()
        docker("version", "--format", "{{.Server.Version}}")
        yield from _machine_problems({**env, **os.environ})
    except DockerError as error:
        yield str(error)


def find_notes(env: dict[str, str]) -> Iterator[str]:
    """What is not in the way, and perhaps not meant."""
    in_compose = COMPOSE_FILE.read_text()
    for name in sorted(set(env) & _known()):
        if not re.search(rf"\$\{{{name}\b|^ +{name}:$", in_compose, re.MULTILINE):
            yield f"{ENV} sets {name}, which counts for `make up` alone: compose sets its own"
    if env.get("COMPOSE_PROFILES") == "cpu" and shutil.which("nvidia-smi"):
        yield "there is a GPU here: with the NVIDIA Container Toolkit COMPOSE_PROFILES=gpu uses it"


def choose_profile() -> str:
    """`gpu` where Docker can give one to a container, else `cpu`; "" where Docker does not say."""
    try:
        return "gpu" if shutil.which("nvidia-smi") and _gives_gpus() else "cpu"
    except DockerError:
        return "" if shutil.which("nvidia-smi") else "cpu"


def _known() -> set[str]:
    return set(re.findall(r"^#? ?([A-Z][A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))


def _machine_problems(env: dict[str, str]) -> Iterator[str]:
    if "gpu" in env.get("COMPOSE_PROFILES", "").split(",") and not _gives_gpus():
        yield (
            "COMPOSE_PROFILES=gpu, and Docker cannot give a GPU to a container: install the NVIDIA "
            "Container Toolkit, or set COMPOSE_PROFILES=cpu"
        )
    address = env.get("BIND") or "127.0.0.1"
    for name, default in PORTS.items():
        port = env.get(name) or default
        if not docker("ps", "-q", "--filter", f"publish={port}", "--filter", _ours()):
            reason = _why_not_free(address, port)
            if reason:
                yield f"{address}:{port} cannot be used ({reason}): set BIND or {name}"
    needed_gb = GB_TO_RUN if docker("images", "-q", IMAGE) else GB_TO_BUILD
    folder = docker("info", "--format", "{{.DockerRootDir}}")
    if Path(folder).exists():  # else Docker runs in a machine of its own
        free_gb = shutil.disk_usage(folder).free / 1e9
        if free_gb < needed_gb:
            yield (
                f"{folder} has {free_gb:.0f} GB left, and {needed_gb} GB are needed: free some "
                "(`docker system df` says what Docker holds)"
            )


def _gives_gpus() -> bool:
    runtimes = json.loads(docker("info", "--format", "{{json .Runtimes}}") or "{}")
    return "nvidia" in runtimes or shutil.which("nvidia-container-runtime-hook") is not None


def _ours() -> str:
    here = os.environ.get("PWD", str(Path.cwd()))  # compose keeps the way that led here
    return f"label=com.docker.compose.project.working_dir={here}"


def _why_not_free(address: str, port: str) -> str:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, int(port)))
    except ValueError:
        return "no port"
    except PermissionError:  # below 1024: ours to know, Docker's to do
        return ""
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


if __name__ == "__main__":
    run(main)
