"""Answer every error with JSON that explains what to do, never with a traceback."""

from __future__ import annotations

import logging

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from backend.base.errors import (
    BackendError,
    ModelFolderError,
    NoModelError,
    QueueError,
    TightloopError,
)

log = logging.getLogger(__name__)

# The server turns this header into the reason phrase of the response's first line. If a request to
# an ML backend fails, that line is all that Label Studio shows to its user.
REASON_HEADER = "X-Tightloop-Reason"
REASON_LENGTH = 500
UNAVAILABLE = (QueueError, ModelFolderError, NoModelError, BackendError)


def register_error_handlers(app: Flask) -> None:
    """Register the handlers that answer an application's errors with JSON."""
    app.register_error_handler(TightloopError, _known_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)


def status_of(error: TightloopError) -> int:
    """Return the HTTP status for a TightloopError."""
    return 503 if isinstance(error, UNAVAILABLE) else 400


def status_of_refusal(error: TightloopError) -> int:
    """Return the HTTP status for a failed button press, such as 404 for an unknown version."""
    return 404 if isinstance(error, NoModelError) else status_of(error)


def _known_error(error: TightloopError) -> Response:
    return _answer(str(error), status_of(error))


def _http_error(error: HTTPException) -> Response:
    response = _answer(error.description or error.name, error.code or 500)
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="Tightloop"'
    return response


def _unexpected_error(error: Exception) -> Response:
    log.exception("%s %s", request.method, request.path)
    return _answer(f"unexpected {type(error).__name__}: see the backend's log", 500)


def _answer(message: str, status: int) -> Response:
    """Return a response with the message in its body and, for the server, as its reason phrase."""
    response = jsonify(error=message)
    response.status_code = status
    phrase = " ".join(message.split()).encode("ascii", "replace").decode()
    response.headers[REASON_HEADER] = phrase[:REASON_LENGTH]
    return response
