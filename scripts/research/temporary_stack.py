"""Run a whole stack, or only a backend and its Redis, in a temporary folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from dotenv import dotenv_values

from backend.base.command_line import ROOT
from backend.base.errors import BackendError
from backend.queue.training_queue import TrainingQueue
from backend.store.project_record import project_root
from scripts.research.random_project import (
    IMAGE_SIZE,
    LABEL_STUDIO_URL,
    PROJECT,
    save_random_project,
)

BIN = Path(sys.executable).parent
POOL_IMAGES = 50_000
USER = "tightloop"
START_S = 180.0
PORTS = ("LABEL_STUDIO_PORT", "BACKEND_PORT", "REDIS_PORT")


@dataclass(frozen=True)
class Backend:
    """A running backend, and the single password for all its routes."""

    port: int
    password: str
    pid: int
    queue: TrainingQueue
    log: Path

    @property
    def url(self) -> str:
        """The address of the backend."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_backend(folder: Path, **settings: str) -> Iterator[Backend]:
    """Run the backend and Redis as `make up` does.

    `folder` must be a short path, because the path of a socket in it has a limited length.
    """
    root = project_root(folder, PROJECT)
    image_ids = [f"i{n}" for n in range(POOL_IMAGES)]
    save_random_project(root, image_ids, IMAGE_SIZE, np.random.default_rng(0))
    password = secrets.token_hex(16)
    [port] = free_ports(1)
    redis_url = f"unix://{folder}/redis.sock"
    environment = {
        **os.environ,
        "MODEL_DIR": str(folder),
        "REDIS_URL": redis_url,
        "WEBHOOK_SECRET": password,
        "BACKEND_PASSWORD": password,
        "DASHBOARD_PASSWORD": password,
        "DASHBOARD_OPEN": "true",
        "CONTROL_SECRET": password,
        "LABEL_STUDIO_API_KEY": password,
        "LABEL_STUDIO_URL": LABEL_STUDIO_URL,
        "RETRAIN_AFTER": "1",
        "ADAPT": "off",
        "BACKEND_PORT": str(port),
        **settings,
    }
    log = folder / "backend.log"
    redis = subprocess.Popen(
        [BIN / "redis-server", "--port", "0", "--unixsocket", folder / "redis.sock",
         "--dir", folder, "--save", "", "--logfile", folder / "redis.log"]
    )  # fmt: skip
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "backend.workers.processes", "backend"],
            env=environment, cwd=ROOT, stdout=out, stderr=out,
        )  # fmt: skip
    backend = Backend(port, password, server.pid, TrainingQueue(redis_url), log)
    try:
        _wait_until_up(backend, server)
        yield backend
    finally:
        for process in (server, redis):
            process.terminate()
            process.wait(60)


def _wait_until_up(backend: Backend, server: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < give_up:
        try:
            httpx.get(f"{backend.url}/health", timeout=60).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise BackendError(f"the backend did not start:\n{backend.log.read_text()}")


def free_ports(count: int) -> list[int]:
    """Return distinct free ports."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass(frozen=True)
class TemporaryStack:
    """A stack in var/<name> on free ports."""

    var: Path
    environment: Mapping[str, str]

    @property
    def info(self) -> dict[str, Any]:
        """Return the content of stack.json, read again because pids change at a restart."""
        return dict(json.loads((self.var / "stack.json").read_text()))

    def up(self) -> None:
        """Start the stack, and wait until it is ready."""
        self.run("scripts.up")

    def down(self) -> None:
        """Stop every process of the stack."""
        self.run("scripts.up", "down")

    def run(self, module: str, *arguments: str) -> None:
        """Run `python -m module arguments` for this stack."""
        command = [sys.executable, "-m", module, *arguments]
        kept = dotenv_values(self.var / "stack.env", interpolate=False)
        own = {name: value for name, value in kept.items() if value}
        subprocess.run(command, env={**self.environment, **own}, cwd=ROOT, check=True)


@contextmanager
def temporary_stack(name: str, **settings: str) -> Iterator[TemporaryStack]:
    """Run a stack in var/<name> on free ports, and delete its folder afterwards.

    SIGTERM also stops the stack, as Ctrl-C does.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    var = ROOT / "var" / name
    shutil.rmtree(var, ignore_errors=True)
    environment = {
        **os.environ,
        "VAR_DIR": str(var),
        "MODEL_DIR": str(var / "models"),
        "DATA_DIR": os.environ.get("DATA_DIR", str(ROOT / "var/data")),
        "DETACH": "1",
        "ADAPT": "off",  # a measurement of something else must not share the cores with it
        **dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True)),
        **settings,
    }
    stack = TemporaryStack(var, environment)
    try:
        stack.up()  # Ctrl-C may interrupt this
        yield stack
    finally:
        stack.down()
        shutil.rmtree(var, ignore_errors=True)
