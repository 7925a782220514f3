"""Fetch the images of tasks: data: URIs, images in Label Studio, and images on other hosts.

A task's data is not trusted. Our token is sent only to Label Studio, and only to addresses at which
it serves images. No file is opened. The size, pixel count and duration of every response are
limited.
"""

from __future__ import annotations

import binascii
import io
import re
from base64 import b64decode
from urllib.parse import SplitResult, quote, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from backend.base.errors import ImageError
from backend.base.settings import Settings
from backend.images.data_uri import is_data_uri
from backend.images.decode import open_image
from backend.images.framing import View, frame
from backend.images.image_hosts import DEFAULT_PORTS, ImageHosts, Limits, download
from backend.images.listing import SHOWN_CHARS, shown
from backend.labelstudio.client import authorization

MAX_BYTES = 20 * 1024**2
LIMITS = Limits(MAX_BYTES, give_up_after_s=30.0)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# The paths of images in Label Studio 1.23: uploads; local file storage (?d=…); cloud storage
# (?fileuri=…). No other path is allowed, because a GET with our token would also reach the API and
# /logout on the same host.
CLOUD_PATHS = r"/tasks/[0-9]+/(resolve|presign)/"
IMAGE_PATHS = re.compile(rf"/data/upload/.*[^/]|/data/local-files/|{CLOUD_PATHS}")


class TaskImages:
    """The images to which the tasks of a Label Studio server may refer."""

    def __init__(self, settings: Settings, limits: Limits = LIMITS) -> None:
        self._url = settings.label_studio_url
        # Label Studio itself writes the address that browsers use into the data of tasks.
        self._origins = [urlsplit(url) for url in (self._url, settings.label_studio_host) if url]
        self._token = settings.label_studio_api_key
        self._hosts = ImageHosts(settings.image_hosts)
        self._max_pixels = settings.max_image_pixels
        self._limits = limits

    def load(self, address: str, view: View) -> NDArray[np.uint8]:
        """Return an image, framed and resized according to `view`, (side, side, 3).

        Raises ImageError if the image cannot be read or its address is not allowed.
        """
        try:
            content = self.read(address)
        except OSError as error:
            raise ImageError(str(error)) from None
        with open_image(io.BytesIO(content), self._max_pixels, FORMATS) as image:
            return frame(image, view.framing, (view.side_px, view.side_px))

    def read(self, address: str) -> bytes:
        """Return the file of an image.

        Raises ImageError if the address is not allowed or the file is unusable, and OSError if the
        file cannot be fetched now.
        """
        if is_data_uri(address):
            return _from_data_uri(address)
        url = self._label_studio_url(address)
        if url is None:
            return self._hosts.open(address, self._limits).read()
        token = authorization(self._url, self._token.get_secret_value())
        found = download(url, self._limits, token)
        if isinstance(found, str):
            self._check_redirect(url, found)
            found = self._hosts.open(found, self._limits, max_redirects=0)
        return found.read()

    def fault(self, address: str) -> str:
        """Return why an address is not allowed, or "". Sends no request."""
        if is_data_uri(address):
            return ""
        try:
            self._label_studio_url(address)
        except ImageError as error:
            return str(error)
        return ""

    def _label_studio_url(self, address: str) -> str | None:
        """Return the URL to request from Label Studio, or None if the address is on another host.

        The URL always has the origin of LABEL_STUDIO_URL. Raises ImageError if the address is not
        allowed.
        """
        # URL parsers differ here: some drop a tab, and some turn a backslash into a slash.
        if re.search(r"[\x00-\x20\x7f\\\ud800-\udfff]", address):
            raise ImageError(
                "the image's address contains spaces, control characters or backslashes"
            )
        try:
            asked = urlsplit(address)
            origins = [base for base in self._origins if _origin(base) == _origin(asked)]
        except ValueError:
            raise ImageError("the image's address is malformed") from None
        if address.startswith("/") and not asked.scheme and not asked.netloc:
            origins = self._origins
        if not origins or "@" in asked.netloc:
            self._check_host(address, asked)
            return None
        # Decode the path and encode it again, so that exactly the checked path is requested.
        path = unquote(asked.path)
        paths = [path.removeprefix(base.path.rstrip("/")) for base in origins]
        found = next(filter(IMAGE_PATHS.fullmatch, paths), None)
        if found is None or not _is_plain(asked.path) or "#" in address:
            raise ImageError(
                "Label Studio does not serve images at this address; use /data/upload/…, "
                "/data/local-files/?d=… or /tasks/<id>/resolve/?fileuri=…"
            )
        query = f"?{asked.query}" if asked.query else ""
        return f"{self._url}{quote(found)}{query}"

    def _check_host(self, address: str, asked: SplitResult) -> None:
        """Raise ImageError if an address outside Label Studio is not allowed."""
        if asked.scheme not in DEFAULT_PORTS and (asked.scheme or not asked.netloc):
            scheme = re.match(r"[a-z0-9+.-]{1,20}:", address.lower())
            named = f" ({scheme[0]}…)" if scheme else ""
            raise ImageError(
                "the image is neither a data: URI, nor in Label Studio, nor at an https address"
                f"{named}: connect the storage that contains it to the project"
            )
        fault = "the address does not begin with https:"
        if asked.scheme:
            fault = self._hosts.fault(address)
        if fault:
            raise ImageError(f"requests to other servers are not allowed: {fault[:SHOWN_CHARS]}")

    def _check_redirect(self, url: str, target: str) -> None:
        """Raise OSError unless Label Studio may redirect a request for an image to this address.

        The redirect is followed without our token, because it leads to another server.
        """
        if not re.search(rf"{CLOUD_PATHS}$", urlsplit(url).path):
            raise OSError(
                f"Label Studio redirects {shown(url)}, but only images in cloud storage may be "
                "redirected"
            )
        if fault := self._hosts.fault(target):
            raise OSError(
                "Label Studio redirects to cloud storage that must not be contacted: "
                f"{fault[:SHOWN_CHARS]}"
            )


def _from_data_uri(value: str) -> bytes:
    header, comma, payload = value.partition(",")
    if not comma or not re.fullmatch(r"data:image/[^,]*;base64", header, re.IGNORECASE):
        raise ImageError("the data URI does not begin with data:image/…;base64,")
    if len(payload) * 3 // 4 > MAX_BYTES:
        raise ImageError(f"the data URI contains more than {MAX_BYTES:,} bytes")
    try:
        return b64decode(unquote(payload) if "%" in payload else payload, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("the data URI is not valid base64") from None


def _is_plain(path: str) -> bool:
    """Return whether all servers and proxies must interpret the path in the same way."""
    names = [unquote(name) for name in path.split("/")[1:]]
    *folders, last = names
    return not any(
        name in ("", ".", "..") or re.search(r"[/\\%;?#\x00-\x1f\x7f\ufffd]", name)
        for name in (folders if last == "" else names)
    )


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)
