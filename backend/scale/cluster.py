"""Connect this process to the Ray cluster that RAY_ADDRESS names."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from backend.base.errors import ScaleError

NAMESPACE = "tightloop"
# Blocks in flight between tasks. By default, Ray takes 30 % of this machine's memory.
OBJECT_STORE_BYTES = 1 << 30
PROBE_TIMEOUT_S = 5.0
# Ray alone tries for more than five minutes. If it tries only once, it needs 41 s to give up on a
# port of another service, and 60 s if no node of the cluster runs on this machine.
GIVE_UP_S = 70.0
TRIES = "RAY_gcs_server_port_wait_time_s"
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to the cluster at `address` for the time of the block.

    `address` is that of RAY_ADDRESS: `auto`, `host:port`, or empty for a cluster of its own on this
    machine, which ends with the block. A block inside another one uses the same connection. Call
    it from the main thread: the processes of an own cluster end with the thread that started them.

    Raises ScaleError, at the latest after GIVE_UP_S, if there is no connection.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield
        return
    with _own_cluster(ray) if not address else _existing_cluster(ray, address):
        try:
            yield
        finally:
            ray.shutdown()  # not left to atexit, which RQ's jobs never reach


def _import_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise ScaleError(
            f"SCALE=ray, but Ray is not installed in {sys.prefix}: run `make .venv-ray/.installed` "
            "and use .venv-ray/bin/python, or set SCALE=local"
        ) from None
    return ray


@contextmanager
def _own_cluster(ray: Any) -> Iterator[None]:
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Ray would write a token that every user of this machine may read into the home folder.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray would keep the logs of every start. The path is short: those of sockets have a limit.
    with tempfile.TemporaryDirectory(
        prefix="tightloop-ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        try:
            _init(
                ray,
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=folder,
            )
        except Exception as error:
            ray.shutdown()
            raise ScaleError(
                f"Ray did not start on this machine ({_first_line(error)}): set RAY_ADDRESS to a "
                "running cluster, or SCALE=local"
            ) from error
        yield


@contextmanager
def _existing_cluster(ray: Any, address: str) -> Iterator[None]:
    if address != "auto":
        _probe(address)
    try:
        with _environment(TRIES, "1"):
            _init(ray, address=address)
    except Exception as error:
        ray.shutdown()
        raise ScaleError(_reason(error, address)) from error
    yield


def _init(ray: Any, **options: Any) -> None:
    """Call ray.init, and keep this process's reaction to SIGTERM.

    Ray's handler raises SystemExit inside whatever is running, which RQ takes for a failed job.
    """
    is_main = threading.current_thread() is threading.main_thread()
    former = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR", **options)
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, former)


def _probe(address: str) -> None:
    """Raise ScaleError at once if nothing answers, which Ray itself would not do."""
    parts = urlsplit(f"//{address}")
    try:
        socket.create_connection((parts.hostname, parts.port), PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise ScaleError(_unreachable(address, error.strerror or str(error))) from None


def _reason(error: BaseException | None, address: str) -> str:
    """Return the sentence for an error of ray.init, whose causes say more than itself."""
    text = ""
    while error is not None:
        text, error = f"{text}{error!r} {error}\n", error.__cause__
    if "AuthenticationError" in text:
        return (
            f"the Ray cluster at {address} refused this machine's token: set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token of the cluster's head"
        )
    if "Version mismatch" in text and len(found := VERSIONS.findall(text)) >= 2:
        (ray, python), (own_ray, own_python) = found[:2]
        return (
            f"the Ray cluster at {address} runs Ray {ray} on Python {python}, and this machine Ray "
            f"{own_ray} on Python {own_python}: use the same image or ray.lock, and the same "
            "Python, on all machines"
        )
    if "No node info found" in text:
        return (
            f"this machine does not belong to the Ray cluster at {address}: run `ray start "
            f"--address={address}` here first"
        )
    if "any running Ray instance" in text:
        return (
            "RAY_ADDRESS=auto, but this machine belongs to no Ray cluster: run `ray start "
            "--address=…` here first, or leave RAY_ADDRESS empty"
        )
    return _unreachable(address, "what answers there is not Ray")


def _unreachable(address: str, why: str) -> str:
    return (
        f"no Ray cluster answers at RAY_ADDRESS={address} ({why}): start its head with `ray start "
        "--head`, correct the address, or set SCALE=local"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def _environment(variable: str, value: str) -> Iterator[None]:
    former = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if former is None:
            del os.environ[variable]
        else:
            os.environ[variable] = former
