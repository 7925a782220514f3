"""Download files completely or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.request import Request, urlopen

from backend.base.progress import Progress

MB = 1_000_000


def download(
    url: str, file: Path, what: str, progress: Progress, *, timeout_s: float, sha256: str = ""
) -> None:
    """Download `url` to `file`. Raises OSError or HTTPException if that fails or the hash is wrong.

    `what` names the file in progress lines, `sha256` is the expected beginning of the file's hash,
    and `timeout_s` is how long the host may go without sending data.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.partial")
    request = Request(url, headers={"User-Agent": "tightloop"})
    try:
        with urlopen(request, timeout=timeout_s) as response, draft.open("w+b") as out:
            n_bytes = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read(MB):
                out.write(chunk)
                progress(f"downloading {what}", out.tell() // MB, n_bytes // MB)
            if out.tell() < n_bytes:
                raise OSError(f"connection lost after {out.tell():,} of {n_bytes:,} bytes")
            out.seek(0)
            found = hashlib.file_digest(out, "sha256").hexdigest()
        if not found.startswith(sha256):
            raise OSError(f"invalid hash: {found} does not begin with {sha256}")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
