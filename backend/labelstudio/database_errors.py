"""Recognize failures of Label Studio's database in its responses, and explain what to do.

Label Studio's responses contain the error messages of PostgreSQL and SQLite unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from backend.base.errors import DatabaseError

# For each pattern in the text of a failure: what is wrong and what to do.
SENTENCES: Mapping[str, str] = {
    "deadlock detected|could not serialize|database is locked|lock timeout|could not obtain lock": (
        "several changes blocked each other in its database. Nothing was lost; if this persists, "
        "check which other programs change Label Studio's data"
    ),
    "No space left on device|could not extend file|disk is full": (
        "its disk, or the disk of its database, is full, so annotators cannot submit "
        "anything either: free some space"
    ),
    "too many clients|remaining connection slots|too many connections": (
        "its database accepts no more connections. If this persists, raise max_connections in "
        "PostgreSQL, or stop other programs that use the database"
    ),
    "out of (shared )?memory": (
        "its database has too little memory: give PostgreSQL's machine more memory, or stop other "
        "programs on it"
    ),
    "canceling statement": (
        "its database canceled the request. If this persists, check PostgreSQL's timeouts and log"
    ),
    "terminating connection|connection .*(closed|failed|refused|lost)|closed the connection|"
    "consuming input failed|starting up|shutting down|recovery mode|read-only transaction": (
        "it has lost the connection to its database. If this persists, check that PostgreSQL is "
        "running, and check its log"
    ),
}
# Label Studio sends an error page instead of JSON if it cannot even check the token.
NO_REASON = (
    "it gave no reason, which happens while its database does not respond. If this persists, check "
    "the logs of Label Studio and PostgreSQL, and check LABEL_STUDIO_URL"
)


def find_database_error(url: str, status: int, reason: str) -> DatabaseError | None:
    """Return the error for a failure of the database, or None if something else is wrong.

    `reason` is the text in Label Studio's response.
    """
    if status < 500:
        return None
    for pattern, sentence in SENTENCES.items():
        if re.search(pattern, reason, re.DOTALL):
            return DatabaseError(f"Label Studio at {url} failed: {sentence}", status)
    return None
