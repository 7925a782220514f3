"""Decide who may do what over HTTP.

On loopback, reading needs no login unless a password is set. Changing anything always requires a
password, and the request must not come from a page of another site.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

from flask import request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from pydantic import SecretStr
from werkzeug.datastructures import Authorization, Headers
from werkzeug.exceptions import Forbidden, NotFound, TooManyRequests, Unauthorized

from backend.base.settings import LOOPBACK_HOSTS, Settings
from backend.labelstudio.incoming import SECRET_HEADER
from backend.web.backend_client import CONTROL_HEADER

MAX_BODY_BYTES = 5 * 1024**2
# Label Studio's "Retrieve Predictions" sends all selected tasks, including their images.
MAX_PREDICT_BYTES = 512 * 1024**2
WRONG_PASSWORDS = RateLimitItemPerMinute(10)  # per address
# Headers that proxies and content delivery networks add to the requests they forward.
PROXY_HEADER = re.compile(
    r"via|forwarded|x-forwarded.*|x-original.*|x-envoy.*|x-proxy.*|x-real-ip|.*client-ip"
    r"|.*connecting-ip|cf-.*|cdn-loop",
    re.IGNORECASE,
)

Check = Callable[[], None]
View = Callable[[], Any]


def guarded(view: View, *checks: Check) -> View:
    """Return a view that first runs checks, each of which may refuse the request."""

    @wraps(view)
    def checked() -> Any:
        for check in checks:
            check()
        return view()

    return checked


class Auth:
    """The credentials that one server accepts. Counts wrong passwords by address, in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def check_backend(self) -> None:
        """Let only Label Studio in."""
        if not self._has_backend_credentials(request.headers):
            self._refuse(
                "send BACKEND_USER and BACKEND_PASSWORD with basic auth; to connect a project, run "
                "`python -m scripts.setup_project --attach PROJECT_ID` instead"
            )

    def check_webhook(self) -> None:
        """Let only Label Studio in.

        Label Studio's Start Training button sends the backend's password instead of the secret.
        """
        if not (
            self._has_webhook_secret(request.headers)
            or self._has_backend_credentials(request.headers)
        ):
            self._refuse(f"send the webhook secret in the header {SECRET_HEADER}")

    def check_reader(self) -> None:
        """Let in anyone who may see the loop's status."""
        if not self._is_free():
            self.check_login()

    def check_login(self) -> None:
        """Let in only people who know the dashboard's password."""
        if not self._has_dashboard_login(request.headers):
            self._refuse("set DASHBOARD_PASSWORD, and send it with basic auth")

    def check_operator(self) -> None:
        """Let in anyone who may change things, unless a page of another site sent the request."""
        _refuse_other_sites()
        self.check_login()

    def check_control_secret(self) -> None:
        """Let in only our dashboard in another process; refuse everyone if no secret is set."""
        secret = self._settings.control_secret.get_secret_value()
        if not secret:
            raise NotFound("controls are closed: set CONTROL_SECRET to publish the dashboard")
        if not _is_equal(request.headers.get(CONTROL_HEADER, ""), secret):
            self._refuse(f"send CONTROL_SECRET in the header {CONTROL_HEADER}")

    def body_limit(self, path: str, headers: Headers) -> int:
        """Return how many bytes of a request's body may be read, or 0 without valid credentials."""
        if self._has_backend_credentials(headers):
            return MAX_PREDICT_BYTES if path == "/predict" else MAX_BODY_BYTES
        is_known = self._has_webhook_secret(headers) or self._has_dashboard_login(headers)
        return MAX_BODY_BYTES if is_known else 0

    def _has_backend_credentials(self, headers: Headers) -> bool:
        return _has_login(headers, self._settings.backend_user, self._settings.backend_password)

    def _has_dashboard_login(self, headers: Headers) -> bool:
        return _has_login(headers, self._settings.dashboard_user, self._settings.dashboard_password)

    def _has_webhook_secret(self, headers: Headers) -> bool:
        secret = self._settings.webhook_secret.get_secret_value()
        return bool(secret) and _is_equal(headers.get(SECRET_HEADER, ""), secret)

    def _is_free(self) -> bool:
        settings = self._settings
        has_password = bool(settings.dashboard_password.get_secret_value())
        if not settings.is_loopback_only or (has_password and not settings.dashboard_open):
            return False
        # Requests through proxies, or to foreign host names that resolve to this machine (DNS
        # rebinding), need a login.
        is_forwarded = any(PROXY_HEADER.fullmatch(name) for name, _ in request.headers)
        host = re.sub(r":\d+$", "", request.host.lower()).strip("[]")
        return not is_forwarded and host in LOOPBACK_HOSTS

    def _refuse(self, hint: str) -> NoReturn:
        """Answer 401, or 429 to an address that keeps sending wrong passwords."""
        credentials = ("Authorization", SECRET_HEADER, CONTROL_HEADER)
        is_guess = any(name in request.headers for name in credentials)
        if is_guess and not self._limiter.hit(WRONG_PASSWORDS, request.remote_addr or ""):
            raise TooManyRequests("too many wrong passwords from this address: wait a minute")
        raise Unauthorized(hint)


def _is_equal(given: str, expected: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(
        given.encode(errors="surrogatepass"), expected.encode(errors="surrogatepass")
    )


def _has_login(headers: Headers, user: str, password: SecretStr) -> bool:
    expected = password.get_secret_value()
    auth = Authorization.from_header(headers.get("Authorization"))
    return (
        auth is not None
        and auth.type == "basic"
        and bool(expected)
        and _is_equal(auth.username or "", user)
        and _is_equal(auth.password or "", expected)
    )


def _refuse_other_sites() -> None:
    """Refuse POSTs from pages of other sites; a request without an origin is not from a browser."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    is_ours = (
        site in ("same-origin", "none")
        if site is not None
        else origin is None or origin in (f"http://{request.host}", f"https://{request.host}")
    )
    if not is_ours:
        raise Forbidden("only the dashboard's own page may change things: open it and try again")
