"""Read pages of tasks while people delete tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from backend.base.errors import LabelStudioError
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.task_pages import TaskPages

DELETED = 500, "59"  # how Label Studio answers if task 59 is deleted while it reads the page
PAGE = 200, {"tasks": [{"id": 7}], "total": 1}


@contextmanager
def answering(*answers: tuple[int, object]) -> Iterator[tuple[TaskPages, list[tuple[int, object]]]]:
    """Give these answers, one per request; the list holds the answers that are left."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = left.pop(0)
            content = json.dumps(body if status == 200 else {"detail": body}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield (
                TaskPages(LabelStudio(f"http://127.0.0.1:{server.server_port}", "token"), 12),
                left,
            )
        finally:
            server.shutdown()
            thread.join()


def test_a_page_from_which_a_task_is_just_deleted_is_read_again() -> None:
    with answering(DELETED, DELETED, PAGE) as (pages, left):
        assert list(pages.read("id")) == [{"id": 7}]
        assert left == []


def test_a_page_that_keeps_failing_is_an_error_after_three_tries() -> None:
    with answering(*[DELETED] * 4) as (pages, left):
        with pytest.raises(LabelStudioError, match="answered 500: 59"):
            list(pages.read("id"))
        assert len(left) == 1


def test_a_refused_page_is_not_read_again() -> None:
    with answering((403, "not allowed"), PAGE) as (pages, left):
        with pytest.raises(LabelStudioError):
            list(pages.read("id"))
        assert left == [PAGE]
