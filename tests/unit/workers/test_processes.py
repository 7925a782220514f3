"""Run our processes as their containers do, and the health check of each."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.patience import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[3]


@pytest.fixture
def environment(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """Return the settings that every process needs; no Label Studio listens at its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        **os.environ,
        "REDIS_URL": redis_server.url,
        "MODEL_DIR": str(tmp_path / "models"),
        "DATA_DIR": str(tmp_path / "data"),
        "BACKEND_PORT": str(port),
        "BACKEND_PASSWORD": "hunter2",
        "WEBHOOK_SECRET": "hunter2",
        "DASHBOARD_PASSWORD": "hunter2",
        "CONTROL_SECRET": "hunter2",
        "LABEL_STUDIO_API_KEY": "hunter2",
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LOG_FORMAT": "json",
    }


def command(module: str, process: str) -> list[str]:
    return [sys.executable, "-m", module, process]


@contextmanager
def running(
    process: str, environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that writes to `log`; end it and check that it ends when asked to."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            command("backend.workers.processes", process),
            env=environment,
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        yield started
    finally:
        started.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.wait(PATIENCE_S)
        started.kill()  # does nothing once the process has ended
        started.wait()
    assert started.returncode in (0, -signal.SIGTERM)


def health(process: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("scripts.health", process),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("process", ["backend", "dashboard", "trainer", "ranker", "clock"])
def test_a_running_process_is_healthy_and_logs_only_json(
    process: str, environment: dict[str, str], tmp_path: Path
) -> None:
    before = health(process, environment)
    assert before.returncode == 1
    assert len(before.stderr.splitlines()) == 1, before.stderr
    log = tmp_path / "log"
    with running(process, environment, log) as started:

        def is_healthy() -> bool:
            assert started.poll() is None, log.read_text()
            return health(process, environment).returncode == 0

        wait_for(is_healthy, f"a healthy {process}", show=log.read_text)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events
    assert all(event["message"] and event["level"] for event in events)


def test_a_lost_redis_makes_a_worker_unhealthy(
    environment: dict[str, str], redis_server: RedisServer
) -> None:
    redis_server.stop()
    checked = health("trainer", environment)
    redis_server.start()
    assert checked.returncode == 1
    assert checked.stderr.startswith("Redis cannot be used")


@pytest.mark.parametrize("process", ["trainer", "ranker"])
def test_a_worker_that_starts_before_redis_says_so_in_one_line(
    process: str, environment: dict[str, str], redis_server: RedisServer
) -> None:
    redis_server.stop()
    stopped = subprocess.run(
        command("backend.workers.processes", process),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    redis_server.start()
    assert stopped.returncode == 1
    events = [json.loads(line) for line in stopped.stderr.splitlines()]
    assert events[-1]["message"].startswith("Redis cannot be used (ConnectionError)")
    assert not [event for event in events if "exc_info" in event]


def test_a_gpu_trainer_without_a_gpu_says_so_and_stops(environment: dict[str, str]) -> None:
    stopped = subprocess.run(
        command("backend.workers.processes", "trainer"),
        env={**environment, "DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert stopped.returncode == 1
    [event] = map(json.loads, stopped.stderr.splitlines())
    assert event["level"] == "ERROR"
    assert event["message"].startswith("DEVICE=cuda, but no GPU is usable")


@pytest.mark.parametrize("process", ["backend", "dashboard", "trainer", "ranker", "clock"])
def test_a_bad_setting_stops_a_process_with_one_line(
    process: str, environment: dict[str, str]
) -> None:
    stopped = subprocess.run(
        command("backend.workers.processes", process),
        env={**environment, "BATCH_SIZE": "many"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("BATCH_SIZE='many': ")
    assert len(stopped.stderr.splitlines()) == 1


def test_a_worker_imports_torch_once_and_not_in_every_job(environment: dict[str, str]) -> None:
    script = """
import sys
from backend.base.settings import load_settings
from backend.workers import processes

class ForklessWorker:
    def __init__(self, *_, **__):
        print("torch" in sys.modules)

    def work(self):
        pass

processes.Worker = ForklessWorker
processes.run_ranker(load_settings())
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "True\n"
