"""The server under slow and idle connections: a real process, a real Redis, real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backend.labelstudio.incoming import SECRET_HEADER
from backend.labelstudio.label_config import label_config_xml
from backend.web.error_responses import REASON_HEADER
from backend.web.server import REQUEST_DEADLINE_S
from scripts.research.idle_connections import KINDS
from scripts.research.random_project import CLASSES, PROJECT
from scripts.research.temporary_stack import USER, Backend, running_backend
from tests.patience import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[3]
WEBHOOK = json.dumps({"action": "ANNOTATION_CREATED", "project": {"id": PROJECT}})
CONNECTIONS = 500


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with (
        tempfile.TemporaryDirectory(prefix="tightloop-") as folder,
        running_backend(Path(folder)) as running,
    ):
        yield running


def headers(backend: Backend) -> dict[str, str]:
    return {SECRET_HEADER: backend.password, "Content-Type": "application/json"}


def webhook(image_id: str) -> str:
    """Return the webhook that Label Studio sends for an annotation of an image."""
    return json.dumps({**json.loads(WEBHOOK), "task": {"data": {"image_id": image_id}}})


def send_webhook(backend: Backend, image_id: str) -> int:
    """Send a webhook as Label Studio does, on its own connection, and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", backend.port, timeout=PATIENCE_S)
    connection.request("POST", "/webhook", webhook(image_id), headers(backend))
    status = connection.getresponse().status
    connection.close()
    return status


def connect(backend: Backend, request: bytes) -> socket.socket:
    """Send bytes and leave the connection open."""
    connection = socket.create_connection(("127.0.0.1", backend.port), timeout=PATIENCE_S)
    connection.sendall(request)
    return connection


@pytest.mark.parametrize("kind", KINDS)
def test_500_idle_connections_lose_no_webhook(kind: str, backend: Backend) -> None:
    command = [sys.executable, "-m", "scripts.research.idle_connections", backend.url, kind]
    options = ["--count", str(CONNECTIONS), "--seconds", str(int(2 * PATIENCE_S))]
    idle = subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_for_connections(backend.port)
        assert [send_webhook(backend, f"{kind} {n}") for n in range(55)] == [200] * 55
        assert httpx.get(f"{backend.url}/dashboard", timeout=PATIENCE_S).status_code == 200
        assert idle.poll() is None
    finally:
        idle.terminate()
        idle.wait(PATIENCE_S)
    arrived = backend.queue.annotated_since(PROJECT, 0.0)
    assert {f"{kind} {n}" for n in range(55)} <= arrived.keys()
    assert "Traceback" not in backend.log.read_text()


def wait_for_connections(port: int) -> None:
    """Wait until far more connections are open than eight threads could hold."""

    def n_open() -> int:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        rows = [line.split() for line in lines]
        return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)

    wait_for(lambda: n_open() >= CONNECTIONS // 2, "connections", show=lambda: f"{n_open()} open")


def test_forty_slow_predicts_occupy_no_thread_that_a_webhook_needs() -> None:
    """Each fetches an image from a Label Studio that accepts connections but never statuses."""
    tasks = [{"id": 1, "data": {"image": "/data/upload/1/x.png"}}]
    project = f"{PROJECT}.1"
    body = {"tasks": tasks, "project": project, "label_config": label_config_xml(CLASSES)}
    statuses: list[int] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        tempfile.TemporaryDirectory(prefix="tightloop-") as folder,
        running_backend(
            Path(folder), LABEL_STUDIO_URL=f"http://127.0.0.1:{silent.getsockname()[1]}"
        ) as backend,
    ):

        def predict() -> None:
            login = (USER, backend.password)
            response = httpx.post(
                f"{backend.url}/predict", json=body, auth=login, timeout=PATIENCE_S
            )
            statuses.append(response.status_code)

        predicts = [threading.Thread(target=predict) for _ in range(40)]
        for thread in predicts:
            thread.start()
        silent.settimeout(PATIENCE_S)
        asked, _ = silent.accept()  # the first has requested its image
        assert send_webhook(backend, "a") == 200
        assert len(statuses) < 20  # it did not wait behind them
        asked.close()
        silent.close()  # the others are refused at once
        for thread in predicts:
            thread.join()
    assert statuses == [200] * len(predicts)


@pytest.mark.parametrize(
    "framing", ["Content-Length: 400000000", "Transfer-Encoding: chunked"], ids=str.split
)
def test_a_strangers_body_is_not_read(framing: str, backend: Backend) -> None:
    request = f"POST /predict HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()
    with connect(backend, request) as stranger:
        response = read_to_the_end(stranger)
    assert response.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_over_the_limit_is_413_with_or_without_a_content_length(
    chunked: bool, backend: Backend
) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(6):
            yield b"x" * 1024**2

    content = endless() if chunked else b"x" * 6 * 1024**2
    try:
        response = httpx.post(
            f"{backend.url}/webhook", content=content, headers=headers(backend), timeout=PATIENCE_S
        )
    except httpx.WriteError:  # the server refused while the client was still sending
        return
    assert response.status_code == 413
    assert "exceeds" in response.json()["error"]


def test_a_chunked_webhook_is_counted(backend: Backend) -> None:
    parts = (WEBHOOK[i : i + 10].encode() for i in range(0, len(WEBHOOK), 10))
    response = httpx.post(
        f"{backend.url}/webhook", content=parts, headers=headers(backend), timeout=PATIENCE_S
    )
    assert response.json()["status"] == "counted"


def test_a_connection_without_a_complete_request_is_closed(backend: Backend) -> None:
    with connect(backend, b"GET /health HTTP/1.1\r\nX-Slow: ") as idle:
        idle.settimeout(REQUEST_DEADLINE_S + PATIENCE_S)
        assert idle.recv(1) == b""


def test_a_header_cannot_change_the_address_that_is_counted(backend: Backend) -> None:
    """An address may send ten wrong passwords, whatever its headers claim."""
    statuses = [
        httpx.get(
            f"{backend.url}/versions",
            auth=(USER, "wrong"),
            headers={"X-Forwarded-For": f"10.0.0.{number}"},
            timeout=PATIENCE_S,
        ).status_code
        for number in range(12)
    ]
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == 429


def read_to_the_end(connection: socket.socket) -> bytes:
    response = b""
    while part := connection.recv(65536):
        response += part
    return response


def test_a_refusal_is_the_reason_phrase_which_is_all_that_label_studio_shows(
    backend: Backend,
) -> None:
    """Label Studio's dialog shows only the first line of a failed response."""
    body = {"project": "8.1795346887", "schema": label_config_xml(CLASSES)}
    response = httpx.post(
        f"{backend.url}/setup", json=body, auth=(USER, backend.password), timeout=PATIENCE_S
    )
    assert response.status_code == 400
    assert "python -m scripts.setup_project --attach 8" in response.reason_phrase
    assert response.reason_phrase == response.json()["error"]
    assert REASON_HEADER not in response.headers
