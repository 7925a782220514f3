"""The ports of a local stack, checked before anything starts."""

from __future__ import annotations

import socket
from contextlib import suppress

import psutil

from scripts.local.folder import StackError
from scripts.local.settings import StackSettings


def check_ports(settings: StackSettings) -> None:
    """Raise StackError if a port is taken; Label Studio would silently use the next one."""
    for name in ("label_studio_port", "backend_port", "redis_port"):
        port = getattr(settings, name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise StackError(
                    f"port {port} cannot be used ({_holder(port) or error.strerror}): "
                    f"free it, or set {name.upper()} to another port"
                ) from None


def _holder(port: int) -> str | None:
    """Name the process that listens on a port, if this user is allowed to see it."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            is_listener = connection.status == psutil.CONN_LISTEN
            if is_listener and connection.laddr.port == port and connection.pid:
                return f"held by {psutil.Process(connection.pid).name()}, pid {connection.pid}"
    return None
