"""Decide who may do what over HTTP, and answer everything else with a sentence.

Reading is free on loopback unless a password was chosen; changing things needs one always, and
obeys no other site's page.
"""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn
from urllib.parse import urlsplit

from flask import Flask, Response, jsonify, request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from pydantic import SecretStr
from werkzeug.datastructures import Authorization, Headers
from werkzeug.exceptions import Forbidden, HTTPException, NotFound, TooManyRequests, Unauthorized

from backend.base.errors import (
    BackendError,
    ModelFolderError,
    NoModelError,
    QueueError,
    TightloopError,
)
from backend.base.settings import LOOPBACK_HOSTS, Settings
from backend.labelstudio.incoming import SECRET_HEADER
from backend.web.backend_client import CONTROL_HEADER

log = logging.getLogger(__name__)

UNAVAILABLE = (QueueError, ModelFolderError, NoModelError, BackendError)
MAX_BODY_BYTES = 5 * 1024**2
# "Retrieve Predictions" sends all selected tasks, images included.
MAX_PREDICT_BYTES = 512 * 1024**2
WRONG_PASSWORDS = RateLimitItemPerMinute(10)  # from one address
# What proxies and content networks add to the requests that they pass on.
PROXY_HEADER = re.compile(
    r"via|forwarded|x-forwarded.*|x-original.*|x-envoy.*|x-proxy.*|x-real-ip|.*client-ip"
    r"|.*connecting-ip|cf-.*|cdn-loop",
    re.IGNORECASE,
)

View = Callable[..., Any]


class Door:
    """Checks the passwords of one server. Counts wrong ones by address, in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def needs_backend_password(self, view: View) -> View:
        """Let only Label Studio in."""

        def check() -> None:
            if not self._has_backend_password(request.headers):
                self._refuse("send BACKEND_USER and BACKEND_PASSWORD with basic auth")

        return _checked(check, view)

    def needs_webhook_secret(self, view: View) -> View:
        """Let only Label Studio in; its Start Training shows the backend's password instead."""

        def check() -> None:
            if not (
                self._has_webhook_secret(request.headers)
                or self._has_backend_password(request.headers)
            ):
                self._refuse(f"send the webhook secret in the header {SECRET_HEADER}")

        return _checked(check, view)

    def needs_reader(self, view: View) -> View:
        """Let anyone in who may see how the loop is doing."""

        def check() -> None:
            if not (self._is_free() or self._has_dashboard_password(request.headers)):
                self._refuse("set DASHBOARD_PASSWORD, and send it with basic auth")

        return _checked(check, view)

    def needs_operator(self, view: View) -> View:
        """Let anyone in who may change things, from our own page or no page at all."""

        def check() -> None:
            _refuse_other_sites()
            if not self._has_dashboard_password(request.headers):
                self._refuse("set DASHBOARD_PASSWORD, and send it with basic auth")

        return _checked(check, view)

    def needs_control_secret(self, view: View) -> View:
        """Let only our dashboard in another process in; closed if there is no secret."""
        secret = self._settings.control_secret.get_secret_value()

        def check() -> None:
            if not secret:
                raise NotFound(
                    "no dashboard in another process may ask this: set CONTROL_SECRET for it"
                )
            if not is_equal(request.headers.get(CONTROL_HEADER, ""), secret):
                self._refuse(f"send CONTROL_SECRET in the header {CONTROL_HEADER}")

        return _checked(check, view)

    def body_limit(self, path: str, headers: Headers) -> int:
        """Return how many bytes of body are read: none from a stranger, who may send no end."""
        if self._has_backend_password(headers):
            return MAX_PREDICT_BYTES if path == "/predict" else MAX_BODY_BYTES
        is_known = self._has_webhook_secret(headers) or self._has_dashboard_password(headers)
        return MAX_BODY_BYTES if is_known else 0

    def _has_backend_password(self, headers: Headers) -> bool:
        settings = self._settings
        return _has_login(headers, settings.backend_user, settings.backend_password)

    def _has_dashboard_password(self, headers: Headers) -> bool:
        settings = self._settings
        return _has_login(headers, settings.dashboard_user, settings.dashboard_password)

    def _has_webhook_secret(self, headers: Headers) -> bool:
        secret = self._settings.webhook_secret.get_secret_value()
        return bool(secret) and is_equal(headers.get(SECRET_HEADER, ""), secret)

    def _is_free(self) -> bool:
        settings = self._settings
        has_password = bool(settings.dashboard_password.get_secret_value())
        if not settings.is_loopback_only or (has_password and not settings.dashboard_open):
            return False
        # Neither another site's name that leads here (DNS rebinding) nor a proxy may read for free.
        is_forwarded = any(PROXY_HEADER.fullmatch(name) for name, _ in request.headers)
        return not is_forwarded and _host_of(f"//{request.host}") in LOOPBACK_HOSTS

    def _refuse(self, hint: str) -> NoReturn:
        """Answer 401, or 429 to an address that keeps sending wrong passwords."""
        given = ("Authorization", SECRET_HEADER, CONTROL_HEADER)
        is_guess = any(name in request.headers for name in given)
        if is_guess and not self._limiter.hit(WRONG_PASSWORDS, request.remote_addr or ""):
            raise TooManyRequests("too many wrong passwords from this address: wait a minute")
        raise Unauthorized(hint)


def is_equal(given: str, expected: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing."""
    return hmac.compare_digest(
        given.encode(errors="surrogatepass"), expected.encode(errors="surrogatepass")
    )


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


def _has_login(headers: Headers, user: str, password: SecretStr) -> bool:
    expected = password.get_secret_value()
    auth = Authorization.from_header(headers.get("Authorization"))
    return (
        auth is not None
        and auth.type == "basic"
        and bool(expected)
        and is_equal(auth.username or "", user)
        and is_equal(auth.password or "", expected)
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


def _checked(check: Callable[[], None], view: View) -> View:
    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        check()
        return view(*args, **kwargs)

    return guarded
