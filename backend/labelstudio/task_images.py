"""Load a task's image from a data URI or from the configured Label Studio server.

A task's data is not trusted. Images are requested only from that server, no file is opened, and the
size, pixel count and duration of the response are limited.
"""

from __future__ import annotations

import binascii
import io
import re
import time
from base64 import b64decode
from urllib.parse import SplitResult, quote, unquote, urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from backend.base.errors import ImageError
from backend.images.decode import open_image
from backend.images.framing import View, frame
from backend.labelstudio.client import authorization

MAX_BYTES = 20 * 1024**2
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
TIMEOUT = httpx.Timeout(10.0, connect=5.0)
DEFAULT_PORTS = {"http": 80, "https": 443}
# The paths of images in Label Studio 1.23: uploads; local file storage (?d=…); cloud storage
# (?fileuri=…). No other path is allowed, because a GET with our token would also reach the API and
# /logout on the same host.
IMAGE_PATHS = re.compile(r"/data/upload/.*[^/]|/data/local-files/|/tasks/[0-9]+/(resolve|presign)/")
SHOWN_CHARS = 100


def load_task_image(
    value: str,
    *,
    label_studio_url: str,
    api_key: str,
    view: View,
    max_pixels: int,
    give_up_after_s: float = 30.0,
) -> NDArray[np.uint8]:
    """Return a task's image, framed and resized according to `view`, (side, side, 3).

    Raises ImageError if the image cannot be read or its address is not allowed.
    """
    if value[:5].lower() == "data:":
        content = _from_data_uri(value)
    else:
        url = _checked_url(value, label_studio_url)
        token = authorization(label_studio_url, api_key)
        content = _download(url, token, give_up_after_s)
    with open_image(io.BytesIO(content), max_pixels, FORMATS) as image:
        return frame(image, view.framing, (view.side_px, view.side_px))


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


def _checked_url(value: str, label_studio_url: str) -> str:
    """Return the URL to request, which always has the origin of `label_studio_url`."""
    own = urlsplit(label_studio_url)
    # URL parsers differ here: some drop a tab, and some turn a backslash into a slash.
    if re.search(r"[\x00-\x20\x7f\\\ud800-\udfff]", value):
        raise ImageError("the image's address contains spaces, control characters or backslashes")
    try:
        asked = urlsplit(value)
        is_own = _origin(asked) == _origin(own) and "@" not in asked.netloc
    except ValueError:
        raise ImageError("the image's address is malformed") from None
    is_relative = value.startswith("/") and not asked.scheme and not asked.netloc
    if not is_own and not is_relative:
        raise ImageError(
            "the image is neither a data: URI nor at LABEL_STUDIO_URL, and requests to other "
            f"servers are not allowed ({_shown(value)})"
        )
    # Decode the path and encode it again, so that exactly the checked path is requested.
    path = unquote(asked.path)
    is_image = IMAGE_PATHS.fullmatch(path.removeprefix(own.path))
    if not is_image or not _is_plain(asked.path) or "#" in value:
        raise ImageError(
            "Label Studio does not serve images at this address; use /data/upload/…, "
            f"/data/local-files/?d=… or /tasks/<id>/resolve/?fileuri=…: {_shown(value)}"
        )
    query = f"?{asked.query}" if asked.query else ""
    return f"{own.scheme}://{own.netloc}{quote(path)}{query}"


def _is_plain(path: str) -> bool:
    """Return whether all servers and proxies must interpret the path in the same way."""
    names = [unquote(name) for name in path.split("/")[1:]]
    *folders, last = names
    return not any(
        name in ("", ".", "..") or re.search(r"[/\\%;?#\x00-\x1f\x7f\ufffd]", name)
        for name in (folders if last == "" else names)
    )


def _shown(text: str) -> str:
    """Return an address in a short, printable form."""
    cut = f"… ({len(text):,} characters)" if len(text) > SHOWN_CHARS else ""
    return repr(text[:SHOWN_CHARS])[1:-1] + cut


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)


def _download(url: str, token: str, give_up_after_s: float) -> bytes:
    give_up = time.monotonic() + give_up_after_s
    headers = {"Authorization": token, "Accept-Encoding": "identity"}
    content = bytearray()
    shown = _shown(url)
    try:
        with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            if not response.is_success:
                raise ImageError(f"Label Studio answered {response.status_code} for {shown}")
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ImageError(f"{shown} has more than {MAX_BYTES:,} bytes")
                if time.monotonic() > give_up:
                    raise ImageError(f"{shown} took more than {give_up_after_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ImageError(f"{shown} could not be fetched ({type(error).__name__})") from None
    return bytes(content)
