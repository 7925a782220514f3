"""Run Redis as docker-compose.yml configures it, with the dashboard's own user."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection

from tests.patience import wait_for

COMPOSE_FILE = Path(__file__).parents[1] / "docker-compose.yml"
PASSWORD, DASHBOARD_PASSWORD = "redis-pass", "reader-pass"


@dataclass(frozen=True)
class ComposeRedis:
    """A running Redis, with the addresses for its two users."""

    socket: Path

    @property
    def url(self) -> str:
        """The address for our processes."""
        return f"unix://:{PASSWORD}@{self.socket}?db=0"

    @property
    def dashboard_url(self) -> str:
        """The address for the published dashboard."""
        return f"unix://dashboard:{DASHBOARD_PASSWORD}@{self.socket}?db=0"


@contextmanager
def running_redis(executable: Path) -> Iterator[ComposeRedis]:
    """Run Redis with the service's configuration; afterwards, stop it and delete its folder."""
    folder = Path(tempfile.mkdtemp(prefix="tightloop-team-"))  # short: socket paths have a limit
    redis = ComposeRedis(folder / "redis.sock")
    options = ("--port", "0", "--unixsocket", redis.socket, "--logfile", folder / "redis.log")
    with subprocess.Popen([executable, "-", *options], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(_configuration(folder).encode())
        process.stdin.close()
        try:
            log = folder / "redis.log"
            wait_for(lambda: _is_up(redis), "Redis", every_s=0.05, show=log.read_text)
            yield redis
        finally:
            process.terminate()
    shutil.rmtree(folder)


def _configuration(folder: Path) -> str:
    """Return what the service's command sends to Redis on standard input."""
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


def _is_up(redis: ComposeRedis) -> bool:
    try:
        Redis.from_url(redis.url).ping()
    except NoConnection:
        return False
    return True
