"""Download from a local server: a file arrives complete or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from backend.base.downloads import download

CONTENT = b"x" * 1000


class Files(BaseHTTPRequestHandler):
    """Serve CONTENT; under /short announce more than is sent."""

    def do_GET(self) -> None:
        self.send_response(200)
        announced = 5000 if self.path == "/short" else len(CONTENT)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(url: str, file: Path, sha256: str = "") -> None:
    download(url, file, "it", lambda *_: None, timeout_s=5, sha256=sha256)


def test_a_file_arrives_complete_and_under_its_name(url: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / "it"
    fetch(f"{url}/", file, hashlib.sha256(CONTENT).hexdigest()[:8])
    assert file.read_bytes() == CONTENT
    assert [path.name for path in file.parent.iterdir()] == ["it"]


@pytest.mark.parametrize(("path", "sha256"), [("/short", ""), ("/", "00000000")])
def test_an_incomplete_download_or_one_with_a_wrong_hash_leaves_no_file(
    url: str, tmp_path: Path, path: str, sha256: str
) -> None:
    with pytest.raises(OSError, match=r"connection lost|invalid hash"):
        fetch(url + path, tmp_path / "it", sha256)
    assert list(tmp_path.iterdir()) == []
