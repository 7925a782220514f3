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


def _known_error(error: TightloopError) -> tuple[Response, int]:
    return jsonify(error=str(error)), status_of(error)


def _http_error(error: HTTPException) -> Response:
    response = jsonify(error=error.description)
    response.status_code = error.code or 500
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="Tightloop"'
    return response


def _unexpected_error(error: Exception) -> tuple[Response, int]:
    log.exception("%s %s", request.method, request.path)
    return jsonify(error=f"unexpected {type(error).__name__}: see the backend's log"), 500
