"""Connect this process to the Ray cluster that RAY_ADDRESS names."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

from backend.base.errors import ScaleError
from backend.scale.failures import full_text, reason, unreachable

NAMESPACE = "tightloop"
# Little passes between tasks. By default, Ray takes 30 % of this machine's memory.
OBJECT_STORE_BYTES = 1 << 30
PROBE_TIMEOUT_S = 5.0
# Ray alone would go on trying for more than five minutes.
TRY_ONCE = {"RAY_gcs_server_port_wait_time_s": "1", "RAY_py_gcs_connect_timeout_s": "5"}
JOIN_TIMEOUT_S = 120.0  # a node starts in five seconds, on a busy machine in a minute
HAS_JOINED = "Ray runtime started"
PR_SET_PDEATHSIG = 1


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a cluster for the time of the block.

    `address` is RAY_ADDRESS. If it is empty, a cluster of its own starts on this machine, and ends
    with the block. With `host:port`, this machine joins that cluster for the time of the block as
    a node that runs no tasks. A block inside another one uses the same connection. Call this from
    the main thread: what it starts ends with its thread, so that nothing outlives a killed process.

    Raises ScaleError if there is no connection: within ten seconds if nothing listens at the
    address, and within a minute if another service does.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield
        return
    connect = {"": _own_cluster, "auto": _cluster_of_this_machine}.get(address, _joined_cluster)
    with connect(ray, address):
        try:
            yield
        finally:
            # Not left to atexit, which RQ's jobs never reach.
            ray.shutdown(wait_for_processes=True)


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
def _own_cluster(ray: Any, _address: str) -> Iterator[None]:
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        # Ray would write a token that every user of this machine may read into the home folder.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray would keep the logs of every start. The path is short: those of sockets have a limit.
    with tempfile.TemporaryDirectory(
        prefix="tightloop-ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        options = {"object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": folder}
        try:
            _init(ray, address="local", include_dashboard=False, **options)
        except Exception as error:
            ray.shutdown()
            raise ScaleError(
                f"Ray did not start on this machine ({error}): set RAY_ADDRESS to a running "
                "cluster, or SCALE=local"
            ) from error
        yield


@contextmanager
def _cluster_of_this_machine(ray: Any, address: str) -> Iterator[None]:
    added = TRY_ONCE.keys() - os.environ.keys()
    os.environ.update({name: TRY_ONCE[name] for name in added})
    try:
        _init_at(ray, address)
    finally:
        for name in added:
            del os.environ[name]
    yield


@contextmanager
def _joined_cluster(ray: Any, address: str) -> Iterator[None]:
    """Join the cluster, which a driver needs: Ray connects it to a node on its own machine."""
    _probe(address)
    with tempfile.TemporaryFile("w+") as output:
        node = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}"),
                *("--num-cpus=0", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}"),
                # Any free ports: this machine may have another node.
                *("--min-worker-port=0", "--max-worker-port=0", "--block"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | TRY_ONCE,
            preexec_fn=_end_with_parent,
        )
        try:
            _wait_until_joined(node, output, address)
            _init_at(ray, address)
            yield
        finally:
            node.terminate()
            node.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_joined(node: subprocess.Popen[bytes], output: IO[str], address: str) -> None:
    give_up = time.monotonic() + JOIN_TIMEOUT_S
    while HAS_JOINED not in (text := _read(output)):
        if node.poll() is not None:
            raise ScaleError(reason(text, address))
        if time.monotonic() >= give_up:
            raise ScaleError(unreachable(address, f"joining takes more than {JOIN_TIMEOUT_S:g} s"))
        time.sleep(0.1)


def _read(output: IO[str]) -> str:
    """Return all that was written, and leave the writer's position, which is shared, alone."""
    return os.pread(output.fileno(), 1 << 20, 0).decode(errors="replace")


def _init_at(ray: Any, address: str) -> None:
    try:
        _init(ray, address=address)
    except Exception as error:
        ray.shutdown()
        raise ScaleError(reason(full_text(error), address)) from error


def _init(ray: Any, **options: Any) -> None:
    """Call ray.init, and keep this process's reaction to SIGTERM.

    Ray's handler raises SystemExit inside whatever is running, which RQ takes for a failed job.
    """
    former = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR", **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)


def _probe(address: str) -> None:
    """Raise ScaleError at once if nothing listens at the address."""
    parts = urlsplit(f"//{address}")
    try:
        socket.create_connection((parts.hostname, parts.port), PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise ScaleError(unreachable(address, error.strerror or str(error))) from None
