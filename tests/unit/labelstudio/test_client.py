"""Turn errors of Label Studio into messages that say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from backend.base.errors import DatabaseError, LabelStudioError, ProjectGoneError
from backend.labelstudio.client import LabelStudio, label_now_url
from backend.labelstudio.project import LabelStudioProject
from tests.unit.labelstudio.stand_in_server import running

# Label Studio 1.23.2 answered this when two transactions blocked each other.
DEADLOCK = json.dumps(
    {
        "status_code": 500,
        "detail": "deadlock detected\nDETAIL:  Process 16106 waits for ShareLock on transaction "
        "1449; blocked by process 16104.\nProcess 16104 waits for ShareLock on transaction 1450; "
        'blocked by process 16106.\nCONTEXT:  while updating tuple (14,3) in relation "task"',
    }
).encode()
TOKEN = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(status: int, body: bytes, *, n_deadlocks: int = 0) -> Iterator[str]:
    """Serve this response to every request, with a session cookie as Label Studio does.

    The first `n_deadlocks` requests are answered as Label Studio answers after a deadlock.
    """
    left = [DEADLOCK] * n_deadlocks

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, content = (500, left.pop()) if left else (status, body)
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Set-Cookie", "sessionid=a-session")
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_DELETE = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    with running(Handler) as url:
        yield url


def message_of(url: str, api_key: str = TOKEN) -> str:
    with pytest.raises(LabelStudioError) as error:
        LabelStudioProject(url, api_key, 1).model_version()
    return str(error.value)


def test_a_refused_token_names_the_setting_and_neither_token_nor_cookie() -> None:
    with serving(401, json.dumps({"detail": "Invalid token."}).encode()) as url:
        message = message_of(url)
    assert "LABEL_STUDIO_API_KEY" in message
    assert "Invalid token." in message
    assert TOKEN not in message
    assert "a-session" not in message


def test_other_refusals_quote_label_studios_reason() -> None:
    with serving(404, json.dumps({"detail": "No Task matches"}).encode()) as url:
        assert message_of(url) == f"Label Studio at {url} answered 404: No Task matches"


def test_a_missing_project_is_distinguished_from_other_errors() -> None:
    answer = {"detail": "No Project matches the given query."}
    with (
        serving(404, json.dumps(answer).encode()) as url,
        pytest.raises(ProjectGoneError, match=r"no longer has this project.*scripts\.status"),
    ):
        LabelStudioProject(url, TOKEN, 1).n_tasks()


def test_a_missing_project_has_no_counts() -> None:
    """Label Studio answers with an empty list."""
    with serving(200, b'{"results": []}') as url, pytest.raises(ProjectGoneError):
        LabelStudioProject(url, TOKEN, 1).counts()


def test_another_project_under_the_same_id_is_not_touched() -> None:
    with serving(200, json.dumps({"created_at": "2026-02", "title": "Other"}).encode()) as url:
        assert LabelStudioProject(url, TOKEN, 1).title() == "Other"
        assert LabelStudioProject(url, TOKEN, 1, created_at="2026-02").title() == "Other"
        with pytest.raises(ProjectGoneError) as error:
            LabelStudioProject(url, TOKEN, 1, created_at="2026-01").title()
    assert error.value.is_replaced


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_request_that_is_safe_to_repeat_is_repeated_after_a_deadlock(method: str) -> None:
    with serving(200, b'{"title": "Birds"}', n_deadlocks=2) as url:
        assert LabelStudio(url, TOKEN).request(method, "api/projects/1/") == {"title": "Birds"}


def test_an_import_is_not_repeated_because_it_may_have_added_something() -> None:
    with serving(200, b"{}", n_deadlocks=1) as url:
        with pytest.raises(DatabaseError, match="changes blocked each other"):
            LabelStudio(url, TOKEN).request("POST", "api/projects/1/import", json=[])
        assert LabelStudio(url, TOKEN).request("POST", "api/projects/1/import", json=[]) == {}


def test_a_deadlock_that_persists_is_explained_without_the_databases_text() -> None:
    with serving(200, b"{}", n_deadlocks=3) as url:
        message = message_of(url)
    assert message.startswith(f"Label Studio at {url} failed: several changes blocked each other")
    assert "Process" not in message
    assert "DETAIL" not in message


def test_an_error_page_points_to_the_database() -> None:
    """Label Studio answers with a page if it cannot even check the token."""
    with serving(500, b"<!doctype html>") as url:
        assert message_of(url).startswith(f"Label Studio at {url} answered 500: it gave no reason")


def test_a_refused_private_address_names_label_studios_setting() -> None:
    reason = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
    with serving(403, json.dumps({"detail": reason}).encode()) as url:
        assert "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false" in message_of(url)


@pytest.mark.parametrize("status", [200, 302, 404])
def test_another_server_at_that_address_is_recognised(status: int) -> None:
    with serving(status, b"<html>hello</html>") as url:
        assert (
            message_of(url)
            == f"{url} does not appear to be a Label Studio server: check LABEL_STUDIO_URL"
        )


def test_a_server_that_is_down_is_named_with_its_address() -> None:
    with serving(200, b"{}") as url:
        pass
    message = message_of(url)
    assert url in message
    assert "check that it is running" in message


@pytest.mark.parametrize("url", ["http://", "http://[", "http://no host"])
def test_a_malformed_address_names_the_setting(url: str) -> None:
    assert "LABEL_STUDIO_URL" in message_of(url)


@pytest.mark.parametrize("api_key", ["", "two words", "line\n", "schlüssel"])
def test_a_malformed_token_is_refused_before_it_is_sent(api_key: str) -> None:
    message = message_of("http://127.0.0.1:1", api_key)
    assert "LABEL_STUDIO_API_KEY" in message
    assert not api_key or api_key not in message


def test_an_expired_personal_token_names_the_setting() -> None:
    # {"alg":"HS256"} . {"exp":1} . a signature, which is not checked
    expired = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln"
    message = message_of("http://127.0.0.1:1", expired)
    assert "LABEL_STUDIO_API_KEY" in message
    assert expired not in message


def test_the_link_for_annotators_opens_the_data_manager() -> None:
    assert label_now_url("https://label.example.org", 7) == (
        "https://label.example.org/projects/7/data"
    )


def test_an_error_page_has_its_status() -> None:
    """Label Studio answers with such a page if a lead time is infinite."""
    with (
        serving(500, b"<html>Server Error</html>") as url,
        pytest.raises(LabelStudioError) as error,
    ):
        LabelStudioProject(url, TOKEN, 1).title()
    assert error.value.status == 500
