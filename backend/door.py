"""The door: who may pass, and what those hear who may not.

Reading is free on loopback unless a password was chosen; changing things needs one always, and
obeys no other site's page.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import Forbidden, HTTPException, Unauthorized

from backend.errors import (
    BackendError,
    ModelFolderError,
    NoModelError,
    QueueError,
    TightloopError,
)
from backend.settings import LOOPBACK_HOSTS, Settings

log = logging.getLogger(__name__)

UNAVAILABLE = (QueueError, ModelFolderError, NoModelError, BackendError)

View = Callable[..., Any]


def needs_backend_password(settings: Settings) -> Callable[[View], View]:
    """For Label Studio alone."""

    def check() -> None:
        if not knows_backend(settings):
            raise Unauthorized("send BACKEND_USER and BACKEND_PASSWORD with basic auth")

    return _checked(check)


def needs_reader(settings: Settings) -> Callable[[View], View]:
    """For whoever may see how the loop is doing."""

    def check() -> None:
        if not (_is_free(settings) or _knows_dashboard(settings)):
            raise Unauthorized("set DASHBOARD_PASSWORD, and send it with basic auth")

    return _checked(check)


def needs_operator(settings: Settings) -> Callable[[View], View]:
    """For whoever may change things; a browser sends its password along from any site's page."""

    def check() -> None:
        _refuse_other_sites()
        if not _knows_dashboard(settings):
            raise Unauthorized("set DASHBOARD_PASSWORD, and send it with basic auth")

    return _checked(check)


def knows_backend(settings: Settings) -> bool:
    """Whether the request brings what Label Studio was told."""
    return _knows(settings.backend_user, settings.backend_password.get_secret_value())


def is_equal(given: str, expected: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), expected.encode())


def answer_errors(app: Flask) -> None:
    """Answer every error as JSON that says what to do, and never with a trace."""

    @app.errorhandler(TightloopError)
    def on_known_error(error: TightloopError) -> tuple[Response, int]:
        return jsonify(error=str(error)), status_of(error)

    @app.errorhandler(HTTPException)
    def on_http_error(error: HTTPException) -> Response:
        answer = jsonify(error=error.description)
        answer.status_code = error.code or 500
        if answer.status_code == 401:
            answer.headers["WWW-Authenticate"] = 'Basic realm="Tightloop"'
        return answer

    @app.errorhandler(Exception)
    def on_unknown_error(error: Exception) -> tuple[Response, int]:
        log.exception("%s %s", request.method, request.path)
        return jsonify(error=f"unexpected {type(error).__name__}: see the backend's log"), 500


def status_of(error: TightloopError) -> int:
    """The HTTP status for an error of ours."""
    return 503 if isinstance(error, UNAVAILABLE) else 400


def _is_free(settings: Settings) -> bool:
    has_password = bool(settings.dashboard_password.get_secret_value())
    if not settings.is_loopback_only or (has_password and not settings.dashboard_open):
        return False
    # Neither another site's name that leads here (DNS rebinding) nor a proxy may read for free.
    is_forwarded = "X-Forwarded-For" in request.headers or "Forwarded" in request.headers
    return not is_forwarded and _host_of(f"//{request.host}") in LOOPBACK_HOSTS


def _knows_dashboard(settings: Settings) -> bool:
    return _knows(settings.dashboard_user, settings.dashboard_password.get_secret_value())


def _knows(user: str, password: str) -> bool:
    auth = request.authorization
    return (
        auth is not None
        and auth.type == "basic"
        and bool(password)
        and is_equal(auth.username or "", user)
        and is_equal(auth.password or "", password)
    )


def _refuse_other_sites() -> None:
    """Every current browser says where a POST comes from; what says nothing is no browser."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    is_ours = (
        site in ("same-origin", "none")
        if site is not None
        else origin is None or origin in (f"http://{request.host}", f"https://{request.host}")
    )
    if not is_ours:
        raise Forbidden("only the dashboard's own page changes things: open it, and try again")


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _checked(check: Callable[[], None]) -> Callable[[View], View]:
    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            check()
            return view(*args, **kwargs)

        return guarded

    return decorate
