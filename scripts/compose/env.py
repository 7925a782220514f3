"""Read a compose stack's .env file as compose does, and add missing secrets to it."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from backend.base.errors import SettingsError
from scripts.compose.docker import DockerError, docker

ENV = Path(".env")
# A name, and its value, which is in quotes or ends at a comment.
LINE = re.compile(
    r"""^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*("[^"]*"|'[^']*'|.*?)\s*(?:(?:^|(?<=[\s=]))\#.*)?$"""
)


def _token() -> str:
    return secrets.token_hex(20)  # Label Studio's token may have at most 40 characters


def _password() -> str:
    return secrets.token_urlsafe(12)  # short, because people type it


def _ray_token() -> str:
    return secrets.token_hex(32)  # as long as the tokens that Ray creates


# Functions that create the values; they return "" if a value cannot be determined yet.
MAKERS: dict[str, Callable[[], str]] = {
    "LABEL_STUDIO_PASSWORD": _password,
    "LABEL_STUDIO_API_KEY": _token,
    "POSTGRES_PASSWORD": _token,
    "REDIS_PASSWORD": _token,
    "DASHBOARD_REDIS_PASSWORD": _token,
    "BACKEND_PASSWORD": _token,
    "WEBHOOK_SECRET": _token,
    "DASHBOARD_PASSWORD": _password,
    "CONTROL_SECRET": _token,
    "RAY_AUTH_TOKEN": _ray_token,
    "COMPOSE_PROFILES": lambda: choose_profile(),
}


def write_missing(path: Path) -> list[str]:
    """Add the missing values without changing other lines; return the names added."""
    known = read_env(path)
    made = {n: value for n, make in MAKERS.items() if not known.get(n) and (value := make())}
    write_values(path, made)
    return list(made)


def write_values(path: Path, values: Mapping[str, str]) -> None:
    """Replace the last line that sets each name, or append a line; change no other line.

    Raises SettingsError if the file cannot be written.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    left = dict(values)
    for number in reversed(range(len(lines))):
        found = LINE.match(lines[number])
        if found and found[1] in left:
            lines[number] = f"{found[1]}={left.pop(found[1])}"
    lines += [f"{name}={value}" for name, value in left.items()]
    draft = path.with_name(f"{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


def read_env(path: Path) -> dict[str, str]:
    """Return an env file's values by name, without quotes, or an empty dict if there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [match for line in lines if (match := LINE.match(line))]
    return {match[1]: match[2].strip("\"'") for match in found}


def choose_profile() -> str:
    """Return `gpu` if containers can use a GPU, `cpu` if they cannot, or "" if Docker is down."""
    if not shutil.which("nvidia-smi"):
        return "cpu"
    try:
        return "gpu" if docker_has_gpus() else "cpu"
    except DockerError:
        return ""


def docker_has_gpus() -> bool:
    """Return whether the NVIDIA Container Toolkit is installed."""
    runtimes = json.loads(docker("info", "--format", "{{json .Runtimes}}") or "{}")
    return "nvidia" in runtimes or shutil.which("nvidia-container-runtime-hook") is not None
