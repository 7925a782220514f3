"""Redis as docker-compose.yml configures it, with the dashboard's own user, for the tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection

COMPOSE_FILE = Path(__file__).parents[1] / "docker-compose.yml"
PASSWORD, DASHBOARD_PASSWORD = "redis-pass", "reader-pass"


@dataclass(frozen=True)
class ComposeRedis:
    """A running one."""

    socket: Path

    @property
    def url(self) -> str:
        """For our processes."""
        return f"unix://:{PASSWORD}@{self.socket}?db=0"

    @property
    def dashboard_url(self) -> str:
        """For the published dashboard."""
        return f"unix://dashboard:{DASHBOARD_PASSWORD}@{self.socket}?db=0"


@contextmanager
def running_redis(executable: Path) -> Iterator[ComposeRedis]:
    """Start a Redis with the service's own configuration; end it and its folder afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tightloop-team-"))  # short: socket paths have a limit
    redis = ComposeRedis(folder / "redis.sock")
    options = ("--port", "0", "--unixsocket", redis.socket, "--logfile", folder / "redis.log")
    with subprocess.Popen([executable, "-", *options], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(_configuration(folder).encode())
        process.stdin.close()
        try:
            _wait_until_it_answers(redis)
            yield redis
        finally:
            process.terminate()
    shutil.rmtree(folder)


def _configuration(folder: Path) -> str:
    """What the service's command gives Redis over standard input."""
    service = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["redis"]
    text = str(service["command"][-1]).split("<<END\n")[1].split("END")[0]
    values = {
        "$$REDISCLI_AUTH": PASSWORD,
        "$$DASHBOARD_REDIS_PASSWORD": DASHBOARD_PASSWORD,
        "/data": str(folder),
    }
    for name, value in values.items():
        assert name in text
        text = text.replace(name, value)
    return text


def _wait_until_it_answers(redis: ComposeRedis) -> None:
    for _ in range(200):
        try:
            Redis.from_url(redis.url).ping()
            return
        except NoConnection:
            time.sleep(0.05)
    raise AssertionError((redis.socket.parent / "redis.log").read_text())
