"""A backend with a real Redis and one version of random weights, for bench, fuzz and tests."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch

from backend.base.errors import BackendError
from backend.base.settings import load_settings
from backend.measures.evaluation import Evaluation
from backend.network import resnet
from backend.queue.training_queue import TrainingQueue
from backend.store import version_probs
from backend.store.project_record import ProjectRecord, project_root, write_record
from backend.store.registry import Registry
from backend.store.version_meta import Meta

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CLASSES = tuple(f"class {i}" for i in range(10))
PROJECT = 1
POOL_IMAGES = 50_000
USER = "tightloop"
START_S = 180.0
MB = 1024**2


@dataclass(frozen=True)
class Backend:
    """A backend that runs, with the one password that it has for everything."""

    port: int
    password: str
    process: subprocess.Popen[bytes]
    queue: TrainingQueue
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def memory_mb(self) -> float:
        """What it takes once it has come to rest."""
        time.sleep(2)
        return tree_mb(self.process.pid)


@contextmanager
def running_backend(folder: Path, **settings: str) -> Iterator[Backend]:
    """Server and Redis as `make up` runs them; `folder` must have a short path, for a socket."""
    root = project_root(folder, PROJECT)
    write_record(
        root,
        ProjectRecord(
            project_id=PROJECT,
            title="bench",
            label_studio_url="http://127.0.0.1:9",
            project_created_at="",
            pool="",
            weights="none",
            seed=0,
            classes=CLASSES,
        ),
    )
    _save_version(root)
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
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "RETRAIN_AFTER": "1",
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
    backend = Backend(port, password, server, TrainingQueue(redis_url), log)
    try:
        _wait_until_it_answers(backend)
        yield backend
    finally:
        for process in (server, redis):
            process.terminate()
            process.wait(60)


def _wait_until_it_answers(backend: Backend) -> None:
    give_up = time.monotonic() + START_S
    while backend.process.poll() is None and time.monotonic() < give_up:
        try:
            httpx.get(f"{backend.url}/health", timeout=60).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise BackendError(f"the backend did not start:\n{backend.log.read_text()}")


def _save_version(root: Path) -> None:
    state = resnet.build(len(CLASSES), None, seed=0).state_dict()
    unmeasured = Evaluation(accuracy=0.1, log_loss=2.3, images=1)
    Registry(root).save(
        {name: tensor.numpy() for name, tensor in state.items()},
        Meta(
            version="r0001",
            round=1,
            created_at="2026-01-01T00:00:00+00:00",
            parent=None,
            classes=CLASSES,
            image_size=load_settings().image_size,
            pool="",
            weights="none",
            strategy="",
            labels=0,
            labels_per_class={},
            labels_fingerprint="",
            left_out={},
            validation=unmeasured,
            test=None,
            refused=None,
            seconds={},
            torch=torch.__version__,
            device="cpu",
        ),
    )
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(len(CLASSES)), POOL_IMAGES).astype(np.float32)
    version_probs.save_pool_probs(root, "r0001", [f"i{n}" for n in range(POOL_IMAGES)], probs)
    Registry(root).promote("r0001")


def tree_mb(pid: int) -> float:
    """Memory of a process and its children that is theirs alone or shared among them."""
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
        return sum(p.memory_full_info().pss for p in tree) / MB
    except psutil.NoSuchProcess:
        return 0.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody holds; all are kept until all are found, so that they differ."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
