"""`make up` and `make down` on a real stack."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.conftest import PORTS, ROOT, Stack, new_stack
from tests.patience import PATIENCE_S, wait_for

STACK_KEYS = {
    "label_studio_url", "username", "password", "api_key", "project_id", "project_url",
    "projects", "backend_url", "dashboard_url", "dashboard_username", "dashboard_password",
    "redis_url", "model_dir", "webhook_secret", "pids", "logs",
}  # fmt: skip
PROGRAMS = {"postgres", "redis", "label-studio", "backend", "trainer", "ranker", "clock"}


@pytest.fixture(scope="module")
def stack(stack_from_nothing: Stack) -> Stack:
    return stack_from_nothing


@pytest.fixture(scope="module")
def stopped_stack(stack: Stack) -> Stack:
    """The stack for the last tests in this file; nothing needs it running afterwards."""
    stack.down()
    return stack


def is_healthy(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.info['backend_url']}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("variable", PORTS)
def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path, variable: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        stack = new_stack(tmp_path, POOL="digits", **{variable: str(port)})
        started = stack.run("scripts.up")
    assert started.returncode == 1
    assert f"port {port} cannot be used" in started.stderr
    assert f"pid {os.getpid()}" in started.stderr
    assert f"set {variable}" in started.stderr
    assert not stack.processes()
    assert {path.name for path in stack.folder.iterdir()} == {"up.lock"}


def test_a_bad_setting_is_named_before_anything_starts(tmp_path: Path) -> None:
    stack = new_stack(tmp_path, POOL="digits", BATCH_SIZE="many", BACKEND_PORT="99999")
    started = stack.run("scripts.up")
    assert started.returncode == 1
    assert started.stderr.startswith("BATCH_SIZE='many': ")
    assert "Traceback" not in started.stderr
    assert not stack.folder.exists()


def test_stack_json_lists_every_address_and_only_its_owner_can_read_it(stack: Stack) -> None:
    for name in ("stack.json", "stack.env", "redis/redis.conf"):
        assert stat.S_IMODE((stack.folder / name).stat().st_mode) == 0o600
    info = stack.info
    assert set(info) == STACK_KEYS
    assert set(info["pids"]) >= PROGRAMS
    assert {process.pid for process in stack.processes()} >= set(info["pids"].values())
    assert all(Path(path).exists() for path in info["logs"].values())
    token = {"Authorization": f"Token {info['api_key']}"}
    url = f"{info['label_studio_url']}/api/projects/{info['project_id']}"
    assert httpx.get(url, headers=token).json()["title"] == stack.settings.project_title


def test_no_secret_appears_in_the_process_list_or_in_a_log(stack: Stack) -> None:
    info = stack.info
    secrets = {info["password"], info["api_key"], info["webhook_secret"]}
    secrets |= {stack.environment["BACKEND_PASSWORD"], stack.environment["REDIS_PASSWORD"]}
    secrets.add(info["dashboard_password"])
    shown = [" ".join(process.cmdline()) for process in stack.processes()]
    shown += [path.read_text(errors="replace") for path in stack.folder.glob("log/*")]
    assert not [text for text in shown if any(secret in text for secret in secrets)]


def test_a_second_up_reports_that_the_stack_is_running_and_changes_nothing(stack: Stack) -> None:
    before = stack.info
    printed = stack.up()
    assert "already running" in printed
    assert before["dashboard_url"] in printed
    assert before["dashboard_password"] in printed
    assert before["project_url"] in printed
    assert before["password"] in printed
    assert stack.info == before


def test_a_killed_backend_is_reported_and_restarted(stack: Stack) -> None:
    killed = stack.info["pids"]["backend"]
    backend = psutil.Process(killed)
    for process in (backend, *backend.children(recursive=True)):
        process.kill()
    wait_for(lambda: stack.info["pids"]["backend"] != killed, "another backend", show=stack.logs)
    wait_for(lambda: is_healthy(stack), "the backend's health", show=stack.logs)
    assert "backend died and was started again" in (stack.folder / "log/watch.log").read_text()


def test_down_leaves_no_process_even_if_supervisord_was_killed(stack: Stack) -> None:
    psutil.Process(stack.info["pids"]["supervisord"]).kill()
    assert stack.processes()
    stack.down()
    assert not stack.processes()
    assert stack.info["pids"] == {}
    stack.down()


def test_up_resumes_the_project_and_ctrl_c_stops_everything(stopped_stack: Stack) -> None:
    before = stopped_stack.info
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.up"],
        env={**stopped_stack.environment, "DETACH": "0"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # set-up's progress
        text=True,
    ) as up:
        try:
            assert up.stdout
            printed = ""
            while (line := up.stdout.readline()) != f"  Password   {before['password']}\n":
                assert line, printed  # the process ended early
                printed += line
            assert before["project_url"] in printed
            assert "nothing changed" in printed
            assert stopped_stack.processes()
            up.send_signal(signal.SIGINT)
            assert up.wait(PATIENCE_S) == 0
        finally:
            up.kill()
    assert not stopped_stack.processes()


def test_up_reports_why_set_up_failed_and_stops_everything(stopped_stack: Stack) -> None:
    bad = replace(
        stopped_stack, settings_given={**stopped_stack.settings_given, "POOL": "no/such/folder"}
    )
    started = bad.run("scripts.up")
    assert started.returncode == 1
    assert "no/such/folder" in started.stderr
    assert "Traceback" not in started.stderr
    assert not bad.processes()
