"""Give unit and integration tests a real Redis, and group tests that share a stack."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.patience import PATIENCE_S, wait_for

# Set this before torch is imported, which reads it. Tests train on a few small images: if anything
# else runs at the same time, a second thread only slows them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests that share a stack run in one process, because starting another stack takes a minute.
SHARED_STACKS = {
    "a stack that tests kill": (
        "tests/integration/test_faults.py",
        "tests/integration/test_up.py",
    ),
    "a stack that tests only use": (
        "tests/integration/labelstudio/",
        "tests/integration/test_heads.py",
        "tests/integration/test_long_run.py",
        "tests/integration/test_review.py",
        "tests/integration/test_unlistable_tasks.py",
        "tests/integration/test_validation_from_people.py",
    ),
    "a stack with large batches": (
        "tests/integration/test_changing_pool.py",
        "tests/integration/test_circle.py",
    ),
    "the stack of the browser": ("tests/browser/",),
}

REDIS_EXECUTABLE = Path(sys.executable).parent / "redis-server"


@dataclass
class RedisServer:
    """The embedded Redis on a unix socket; a test may stop and restart it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}?db=0"

    def start(self) -> None:
        if self.process is not None:
            return
        self.process = subprocess.Popen(
            [REDIS_EXECUTABLE, "--port", "0", "--unixsocket", self.folder / "redis.sock",
             "--dir", self.folder, "--save", "", "--logfile", self.folder / "redis.log"]
        )  # fmt: skip
        wait_for(self._is_up, "Redis", every_s=0.05, show=(self.folder / "redis.log").read_text)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
            self.process = None

    def flush(self) -> None:
        self._send("FLUSHALL")

    def _is_up(self) -> bool:
        try:
            self._send("PING")
        except NoConnection:
            return False
        return True

    def _send(self, command: str) -> None:
        with Redis.from_url(self.url) as connection:
            connection.execute_command(command)


@pytest.fixture(scope="session")
def _redis() -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="tightloop-redis-"))  # short: socket paths have a limit
    server = RedisServer(folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def redis_server(_redis: RedisServer) -> RedisServer:
    """An empty running Redis; `redis_server.url` is a value for REDIS_URL."""
    _redis.start()
    _redis.flush()
    return _redis


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Run all tests that share a stack in one process, and all tests of any other file."""

    def process_of(nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((name for name, paths in SHARED_STACKS.items() if file.startswith(paths)), file)

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = process_of
    return scheduler
