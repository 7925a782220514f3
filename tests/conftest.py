"""What unit and integration tests share: a real Redis."""

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

# Read when torch is loaded, which is later. Tests train on a few small images, where a second
# thread costs more than it brings as soon as anything else runs beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REDIS_EXECUTABLE = Path(sys.executable).parent / "redis-server"


@dataclass
class RedisServer:
    """The embedded Redis on a unix socket; a test may stop it and start it again."""

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
        wait_for(self._answers, "Redis", every_s=0.05, show=(self.folder / "redis.log").read_text)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
            self.process = None

    def flush(self) -> None:
        self._send("FLUSHALL")

    def _answers(self) -> bool:
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
    """A running Redis with nothing in it; `redis_server.url` is what REDIS_URL takes."""
    _redis.start()
    _redis.flush()
    return _redis


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Run a file's tests in one process, and all browser tests in one, since they share a stack."""

    def process_of(nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/browser" if file.startswith("tests/browser/") else file

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = process_of
    return scheduler
