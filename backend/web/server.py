"""Serve an application over HTTP so that slow or idle connections do not occupy threads.

Uvicorn reads requests without threads. A thread receives a request only once it is complete, and
Uvicorn sends the response. Bodies are read only from requests with valid credentials.
"""

from __future__ import annotations

import gc
import random
import resource
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any

import h11
import uvicorn
from a2wsgi import WSGIMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol
from werkzeug.datastructures import Headers

from backend.base.settings import Settings
from backend.web.auth import Auth
from backend.web.error_responses import REASON_HEADER

THREADS = 8
# /predict occupies all cores for seconds, so it must not occupy the other requests' threads.
PREDICT_THREADS = 2
REQUEST_DEADLINE_S = 10.0
KEEP_ALIVE_S = 5  # an open dashboard sends a request every two seconds
GRACE_S = 5

REASON_NAME = REASON_HEADER.lower().encode()
FRAMING_HEADERS = (b"content-length", b"transfer-encoding")

BodyLimit = Callable[[str, Headers], int]


class BufferedApp:
    """An ASGI application that hands complete requests to the threads of a WSGI application."""

    def __init__(self, app: Any, body_limit: BodyLimit) -> None:
        self._body_limit = body_limit
        self._threads = WSGIMiddleware(app, workers=THREADS)
        self._predict_threads = WSGIMiddleware(app, workers=PREDICT_THREADS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; a body over the limit is not read."""
        headers = Headers(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        )
        limit = self._body_limit(scope["path"], headers)
        body = await _read(receive, limit, headers)
        # If the body was not read, the application refuses the request because of this length.
        length = limit + 1 if body is None else len(body)
        kept = [header for header in scope["headers"] if header[0] not in FRAMING_HEADERS]
        complete: Any = {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}
        threads = self._predict_threads if scope["path"] == "/predict" else self._threads
        await threads(complete, _receiver(body or b""), send)


class ReasonConnection(h11.Connection):
    """An HTTP/1.1 connection that takes reason phrases from the header REASON_HEADER."""

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """Return the bytes of an event."""
        if isinstance(event, h11.Response):
            headers = list(event.headers)
            reasons = [value for name, value in headers if name == REASON_NAME]
            if reasons:
                event = h11.Response(
                    status_code=event.status_code,
                    headers=[header for header in headers if header[0] != REASON_NAME],
                    reason=reasons[0],
                )
        return super().send_with_data_passthrough(event)


class DeadlineProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, except that it closes connections whose request head takes too long, and
    that a response may set its reason phrase.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = ReasonConnection(h11.SERVER)

    def connection_made(self, transport: Any) -> None:
        """Start the first deadline."""
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        """Start the next deadline, and stop reading the rest of an unread body."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            # Do not close the connection here; otherwise, all clients would reconnect at once.
            self.flow.pause_reading()
            self._unset_keepalive_if_required()
        self._expect_request()

    def _expect_request(self) -> None:
        # Connections that were opened together should not all be closed together.
        deadline_s = random.uniform(REQUEST_DEADLINE_S, 2 * REQUEST_DEADLINE_S)
        self.loop.call_later(deadline_s, self._close_if_idle, self.cycle)

    def _close_if_idle(self, last_cycle: Any) -> None:
        is_answering = last_cycle is not None and not last_cycle.response_complete
        if self.cycle is last_cycle and not is_answering:
            self.transport.close()


def serve(app: Any, settings: Settings) -> None:
    """Serve `app` until SIGTERM or Ctrl-C."""
    # Exempt loaded objects from garbage collection, which would pause requests for half a second.
    gc.collect()
    gc.freeze()
    with suppress(ValueError, OSError):  # allow as many connections as the system permits
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvicorn.run(
        BufferedApp(app, Auth(settings).body_limit),
        host=settings.backend_host,
        port=settings.backend_port,
        http=DeadlineProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # otherwise, clients could pretend to have any address
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


async def _read(receive: Any, limit: int, headers: Headers) -> bytes | None:
    """Return the whole body, or None if it exceeds `limit` or is cut off."""
    has_unknown_length = "Transfer-Encoding" in headers
    if int(headers.get("Content-Length", 0)) > limit or (has_unknown_length and not limit):
        return None
    body = BytesIO()
    while body.tell() <= limit:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body.write(message["body"])
        if not message["more_body"]:
            return body.getvalue()
    return None


def _receiver(body: bytes) -> Any:
    """Return an ASGI `receive` function that delivers a complete body."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
