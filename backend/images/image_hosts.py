"""Fetch images over HTTP, only from the hosts in IMAGE_HOSTS."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx

from backend.base.errors import ImageError
from backend.base.settings import LOOPBACK_HOSTS
from backend.images.listing import shown

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_REDIRECTS = 3
TIMEOUT = httpx.Timeout(20.0, connect=5.0)


@dataclass(frozen=True)
class Limits:
    """Limits on the size and the duration of one response."""

    max_bytes: int
    give_up_after_s: float


OF_LISTS = Limits(max_bytes=200 * 1024**2, give_up_after_s=60.0)


class ImageHosts:
    """The web servers from which images may be fetched: host, or host:port."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)

    def fault(self, url: str) -> str:
        """Return the reason why a URL must not be fetched, or "" if it may be fetched.

        Images on hosts other than this machine are fetched only over https.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            return "a malformed address"
        if parts.scheme not in DEFAULT_PORTS:
            return "neither a path, nor an s3, gs or https address"
        if not host or not url.isprintable() or " " in url or "\\" in url:
            return "a malformed address"
        if "@" in parts.netloc:
            return "the address contains a user name or password"
        named = f"[{host}]" if ":" in host else host
        with_port = f"{named}:{port or DEFAULT_PORTS[parts.scheme]}"
        if port not in (None, DEFAULT_PORTS[parts.scheme]):
            named = with_port
        if not self._hosts & {named, with_port}:
            return f"{named} is not in IMAGE_HOSTS"
        if parts.scheme == "http" and host not in LOOPBACK_HOSTS:
            return "use https instead of http"
        return ""

    def open(
        self, url: str, limits: Limits = OF_LISTS, *, max_redirects: int = MAX_REDIRECTS
    ) -> BinaryIO:
        """Fetch an image. Raises OSError, or ImageError if the file is too large.

        Redirects are followed only to other allowed URLs.
        """
        for _ in range(1 + max_redirects):
            if fault := self.fault(url):
                raise OSError(fault)
            found = download(url, limits)
            if not isinstance(found, str):
                return found
            url = found
        raise OSError(f"more than {max_redirects} redirects")


def download(url: str, limits: Limits, authorization: str = "") -> BinaryIO | str:
    """Return the content of a URL, or the whole address to which the server redirects.

    Raises OSError, or ImageError if the file is too large.
    """
    give_up = time.monotonic() + limits.give_up_after_s
    headers = {"Accept-Encoding": "identity"}
    if authorization:
        headers["Authorization"] = authorization
    content = io.BytesIO()
    try:
        with _client().stream("GET", url, headers=headers) as response:
            if response.has_redirect_location:
                return urljoin(url, response.headers["Location"])
            if not response.is_success:
                raise OSError(f"the server answered {response.status_code} for {shown(url)}")
            for chunk in response.iter_bytes():
                if content.tell() + len(chunk) > limits.max_bytes:
                    raise ImageError(f"{shown(url)} has more than {limits.max_bytes:,} bytes")
                content.write(chunk)
                if time.monotonic() > give_up:
                    raise OSError(f"{shown(url)} took more than {limits.give_up_after_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(f"{shown(url)} cannot be fetched ({type(error).__name__})") from None
    except ValueError:
        raise OSError(f"{shown(url)} redirects to a malformed address") from None
    content.seek(0)
    return content


@lru_cache(maxsize=1)
def _client() -> httpx.Client:
    # Requests to this machine bypass the proxy that the environment sets.
    direct = {f"all://{f'[{host}]' if ':' in host else host}": None for host in LOOPBACK_HOSTS}
    # Keep no cookies: they ignore ports, so another server on this host would get Label Studio's.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return httpx.Client(timeout=TIMEOUT, mounts=direct, cookies=no_cookies)
