"""Recognize error messages of PostgreSQL and SQLite in Label Studio's responses."""

from __future__ import annotations

import pytest

from backend.labelstudio.database_errors import find_database_error

URL = "http://here"
# The first six texts were provoked in Label Studio 1.23.2 with PostgreSQL 18.
TEXTS = {
    "deadlock detected\nDETAIL:  Process 1 waits for ShareLock": "blocked each other",
    'canceling statement due to user request\nCONTEXT:  while updating tuple (1,3) in relation "p"':
        "canceled the request",
    "terminating connection due to administrator command": "lost the connection",
    "connection failed: connection to server on socket failed: FATAL:  sorry, too many clients "
    "already": "accepts no more connections",
    "the connection is closed": "lost the connection",
    "connection to server at 10.0.0.2, port 5432 failed: Connection refused": "lost the connection",
    "could not serialize access due to concurrent update": "blocked each other",
    "canceling statement due to lock timeout": "blocked each other",
    "database is locked": "blocked each other",
    "server closed the connection unexpectedly": "lost the connection",
    "FATAL:  the database system is in recovery mode": "lost the connection",
    "could not extend file \"base/5/16\": No space left on device": "free some space",
    "[Errno 28] No space left on device: '/data/upload'": "free some space",
    "out of shared memory": "too little memory",
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), TEXTS.items())
def test_a_failure_of_the_database_becomes_a_sentence(text: str, said: str) -> None:
    error = find_database_error(URL, 500, text)
    assert error is not None
    assert error.status == 500
    assert said in str(error)
    assert text not in str(error)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "deadlock detected"),  # a person's text that was refused
        (500, "value out of range: overflow"),
        (500, ""),
    ],
)
def test_other_failures_are_not_taken_for_the_databases(status: int, reason: str) -> None:
    assert find_database_error(URL, status, reason) is None
