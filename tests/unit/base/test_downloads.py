"""Downloads from a server of this machine: whole, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from backend.base.downloads import download

CONTENT = b"x" * 1000


class Shelf(BaseHTTPRequestHandler):
    """Gives CONTENT; under /short it promises more than it gives."""

    def do_GET(self) -> None:
        self.send_response(200)
        promised = 5000 if self.path == "/short" else len(CONTENT)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Shelf) as server:
        giving = threading.Thread(target=server.serve_forever)
        giving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        giving.join()


def fetch(url: str, file: Path, sha256: str = "") -> None:
    download(url, file, "it", lambda *_: None, timeout_s=5, sha256=sha256)


def test_a_file_arrives_whole_and_under_its_name(url: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / "it"
    fetch(f"{url}/", file, hashlib.sha256(CONTENT).hexdigest()[:8])
    assert file.read_bytes() == CONTENT
    assert [path.name for path in file.parent.iterdir()] == ["it"]


@pytest.mark.parametrize(("path", "sha256"), [("/short", ""), ("/", "00000000")])
def test_what_breaks_off_or_is_something_else_leaves_nothing(
    url: str, tmp_path: Path, path: str, sha256: str
) -> None:
    with pytest.raises(OSError, match=r"connection lost|invalid hash"):
        fetch(url + path, tmp_path / "it", sha256)
    assert list(tmp_path.iterdir()) == []
