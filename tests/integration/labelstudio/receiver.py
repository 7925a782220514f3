"""An ML backend in this process that keeps every request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from backend.labelstudio.incoming import SECRET_HEADER, project_id_of
from backend.labelstudio.project import LabelStudioProject

USER, PASSWORD, SECRET = "model", "a password", "a secret"


class Receiver:
    """An ML backend that records its requests and returns `bad_reply` for the images in `bad`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.password = PASSWORD
        self.bad: set[str] = set()
        self.bad_reply: Any = []
        self.events: list[tuple[str | None, dict[str, Any]]] = []  # secret and payload
        self.projects: list[int] = []

    def respond(self, path: str, headers: Mapping[str, str], body: Any) -> tuple[int, Any]:
        if path == "/webhook":
            self.events.append((headers.get(SECRET_HEADER), body))
            return 200, {}
        if httpx.BasicAuth(USER, self.password)._auth_header != headers.get("Authorization"):
            return 401, {"error": "no"}
        if path == "/setup":
            self.projects.append(project_id_of(body["project"]))
            return 200, {"model_version": "r0001"}
        good = {"result": [_cat()], "score": 0.5, "model_version": "r0001"}
        images = [task["data"]["image_id"] for task in body["tasks"]]
        return 200, {"results": [self.bad_reply if i in self.bad else good for i in images]}


def _cat() -> dict[str, Any]:
    value = {"choices": ["cat"]}
    return {"from_name": "label", "to_name": "image", "type": "choices", "value": value}


@contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, {"status": "UP"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*receiver.respond(self.path, dict(self.headers), body))

        def reply(self, status: int, reply: Any) -> None:
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def webhooks(api: httpx.Client, project: LabelStudioProject) -> list[dict[str, Any]]:
    found = api.get("/api/webhooks/", params={"project": project.project_id})
    return list(found.raise_for_status().json())


def backends(api: httpx.Client, project: LabelStudioProject) -> list[dict[str, Any]]:
    found = api.get("/api/ml/", params={"project": project.project_id})
    return list(found.raise_for_status().json())
