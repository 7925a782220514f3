"""Configure and start supervisord for a local stack, and wait for its programs."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from configparser import ConfigParser
from typing import Any
from xmlrpc.client import ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from scripts.local.folder import StackError, StackFolder
from scripts.local.programs import APP, BUCKET_CREDENTIALS, PYTHON, ROOT, Program

RUNNING_AFTER_S = 3
LOG_SIZE, LOGS_KEPT = "10MB", "3"  # the largest size of a log, and how many older logs are kept


def start(
    folder: StackFolder, environment: dict[str, str], programs: list[Program]
) -> subprocess.Popen[bytes]:
    """Start supervisord, but not yet its programs; raise StackError if supervisord dies."""
    config = folder.sockets / "supervisord.conf"
    with config.open("w") as file:
        _configuration(folder, programs).write(file)
    with folder.log("supervisord").open("ab") as log:
        supervisord = subprocess.Popen(
            [PYTHON, "-m", "supervisor.supervisord", "-c", str(config)],
            env=environment,
            cwd=folder.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C must reach only `make up`, which stops everything in order.
            start_new_session=True,
        )
    while not (folder.sockets / "supervisord.sock").exists():
        if supervisord.poll() is not None:
            raise StackError("supervisord did not start" + folder.tail("supervisord"))
        time.sleep(0.05)
    return supervisord


def connect(folder: StackFolder) -> Any:
    """Return supervisord's RPC interface; its methods raise OSError if supervisord is down."""
    socket_url = f"unix://{folder.sockets / 'supervisord.sock'}"
    # ServerProxy insists on an HTTP address; the transport connects to the socket.
    return ServerProxy("http://127.0.0.1", SupervisorTransport(None, None, socket_url)).supervisor


def wait_until_ready(supervisor: Any, program: Program, folder: StackFolder) -> None:
    """Print a line once the program is ready; raise StackError if it dies or takes too long."""
    print(f"  {program.name:<13}{program.note}", end="", flush=True)
    began = time.monotonic()
    first_pid = 0
    while True:
        info = supervisor.getProcessInfo(f"{program.group}:{program.name}")
        waited_s = time.monotonic() - began
        first_pid = first_pid or info["pid"]
        if info["statename"] not in ("STARTING", "RUNNING") or info["pid"] != first_pid:
            raise StackError(f"\n{program.name} died{folder.tail(program.name)}")
        if program.is_ready() if program.is_ready else info["statename"] == "RUNNING":
            print(f" {waited_s:.0f} s")
            return
        if waited_s > program.timeout_s:
            raise StackError(
                f"\n{program.name} is not ready after {waited_s:.0f} s{folder.tail(program.name)}"
            )
        time.sleep(0.2)


def _configuration(folder: StackFolder, programs: list[Program]) -> ConfigParser:
    config = ConfigParser(interpolation=None)
    config["supervisord"] = {
        "nodaemon": "true",
        "logfile": str(folder.log("supervisord")),
        "logfile_maxbytes": LOG_SIZE,
        "logfile_backups": LOGS_KEPT,
        "silent": "true",  # in the foreground, supervisord would also log to standard output
        "pidfile": str(folder.sockets / "supervisord.pid"),
        "umask": "077",
    } | ({"user": "root"} if os.geteuid() == 0 else {})
    config["unix_http_server"] = {
        "file": str(folder.sockets / "supervisord.sock"),
        "chmod": "0700",
    }
    config["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    for priority, program in enumerate(programs):
        config[f"program:{program.name}"] = _section(program, priority=str(priority))
    config[f"group:{APP}"] = {"programs": ",".join(p.name for p in programs if p.group == APP)}
    watch = Program("watch", [PYTHON, "-m", "scripts.local.watch"])
    config["eventlistener:watch"] = _section(
        watch,
        events="PROCESS_STATE_STARTING",
        buffer_size="100",
        redirect_stderr="false",  # standard output is the listener's channel to supervisord
        stdout_logfile="NONE",
        stderr_logfile="log/watch.log",
        stderr_logfile_maxbytes=LOG_SIZE,
        stderr_logfile_backups=LOGS_KEPT,
    )
    for section in config.values():
        for name, value in section.items():
            section[name] = value.replace("%", "%%")
    return config


def _section(program: Program, **options: str) -> dict[str, str]:
    return {
        "command": shlex.join(program.command),
        "directory": str(ROOT),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": str(RUNNING_AFTER_S),
        "startretries": "1000000",  # never give up; each retry waits a second longer
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopwaitsecs": "10",
        "redirect_stderr": "true",
        "stdout_logfile": f"log/{program.name}.log",  # relative to the stack's folder
        "stdout_logfile_maxbytes": LOG_SIZE,
        "stdout_logfile_backups": LOGS_KEPT,
        "environment": ""
        if program.reads_images
        else ",".join(f'{name}=""' for name in BUCKET_CREDENTIALS),
        **program.options,
        **options,
    }
