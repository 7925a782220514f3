"""Control the processes of a stack under test, and read its project."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from xmlrpc.client import Fault as RefusedCall

import httpx
import psutil
from dotenv import dotenv_values

from backend.base.errors import QueueError
from backend.base.settings import Settings
from backend.labelstudio.project import LabelStudioProject
from backend.queue.training_queue import TrainingQueue
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from scripts.local import supervisor
from scripts.local.folder import StackFolder
from scripts.local.programs import APP, answers
from scripts.research.chaos.ledger import Ledger
from scripts.research.temporary_stack import TemporaryStack

WORKERS = ("trainer", "ranker")
PROGRAMS = ("postgres", "redis", "label-studio", "backend", "clock", *WORKERS)
TIMEOUT_S = 60.0
LIMITS = httpx.Limits(max_keepalive_connections=0)  # so no connection has to be closed


@dataclass(frozen=True)
class ChaosStack(TemporaryStack):
    """A running stack, and the ledger of what people did in it."""

    ledger: Ledger

    @property
    def settings(self) -> Settings:
        """Return the settings that the stack's processes read."""
        kept = dotenv_values(self.var / "stack.env", interpolate=False)
        given = {**self.environment, **{name: value for name, value in kept.items() if value}}
        names = {name: field.alias or name.upper() for name, field in Settings.model_fields.items()}
        found = {name: given.get(variable) for name, variable in names.items()}
        return Settings.model_validate({k: v for k, v in found.items() if v is not None})

    @cached_property
    def project_id(self) -> int:
        """Return the project's id in Label Studio."""
        return int(self.info["project_id"])

    @cached_property
    def root(self) -> Path:
        """Return the project's folder."""
        return project_root(Path(self.info["model_dir"]), self.project_id)

    @property
    def store(self) -> ProjectStore:
        """Return the project's database."""
        return ProjectStore(self.root)

    @property
    def registry(self) -> Registry:
        """Return the project's model versions."""
        return Registry(self.root)

    @cached_property
    def project(self) -> LabelStudioProject:
        """Return the project in Label Studio."""
        info = self.info
        return LabelStudioProject(info["label_studio_url"], info["api_key"], self.project_id)

    @cached_property
    def label_studio(self) -> httpx.Client:
        """Return a client with the admin's token."""
        info = self.info
        return httpx.Client(
            base_url=info["label_studio_url"],
            headers={"Authorization": f"Token {info['api_key']}"},
            timeout=TIMEOUT_S,
            limits=LIMITS,
        )

    def process(self, name: str) -> psutil.Process:
        """Return a program's process; raise psutil.NoSuchProcess if it has died."""
        pid = self.info["pids"].get(name)
        if pid is None:
            raise psutil.NoSuchProcess(0, name)
        return psutil.Process(pid)

    def children(self, name: str) -> list[psutil.Process]:
        """Return all descendants of a program's process, or [] if it has died."""
        with suppress(psutil.NoSuchProcess):
            return self.process(name).children(recursive=True)
        return []

    def supervise(self, action: Literal["start", "stop", "restart"], name: str) -> None:
        """Start, stop or restart a program; do nothing if it is already started or stopped."""
        rpc = supervisor.connect(StackFolder(self.var))
        full_name = f"{name if name in ('postgres', 'redis') else APP}:{name}"
        if action != "start":
            with suppress(RefusedCall):
                rpc.stopProcess(full_name)
        if action != "stop":
            with suppress(RefusedCall):
                rpc.startProcess(full_name, False)

    def missing(self) -> str:
        """Return what is missing until all services are back, or ""."""
        for name in PROGRAMS:
            try:
                state = self.process(name).status()
            except psutil.NoSuchProcess:
                return f"{name} is not running"
            if state in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return f"{name} is {state}"
        try:
            TrainingQueue(self.info["redis_url"]).worker_counts()
        except QueueError as error:
            return str(error)
        for name in WORKERS:
            if not self._is_connected(name):
                return f"{name} is starting"
        if not answers(f"{self.info['backend_url']}/health"):
            return "the backend does not respond"
        try:
            path = f"/api/projects/{self.project_id}/"
            self.label_studio.get(path, timeout=5).raise_for_status()
        except httpx.HTTPError as error:
            return f"Label Studio does not respond: {error!r}"
        return ""

    def _is_connected(self, worker: str) -> bool:
        """Return whether a worker has imported its libraries, and is connected to Redis."""
        port = urlsplit(self.info["redis_url"]).port
        with suppress(psutil.NoSuchProcess):
            found = self.process(worker).net_connections("tcp")
            return any(connection.raddr and connection.raddr.port == port for connection in found)
        return False
