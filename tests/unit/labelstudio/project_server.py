"""Respond as Label Studio does to requests for existing and deleted projects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.unit.labelstudio.stand_in_server import serving_json

TOKEN = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ProjectServer:
    """A Label Studio that has only projects, each with the time of its creation."""

    url: str = ""
    projects: dict[int, str] = field(default_factory=dict)

    def answer(self, path: str) -> tuple[int, Any]:
        """Return the status code and the JSON for a GET request."""
        name = path.partition("?")[0].removeprefix("/api/projects/").rstrip("/")
        if not name:
            return 200, {"results": [{"id": i, "title": "A"} for i in self.projects], "next": None}
        if int(name) not in self.projects:
            return 404, {"detail": "No Project matches the given query."}
        return 200, {"id": int(name), "title": "A", "created_at": self.projects[int(name)]}


@contextmanager
def serving_projects() -> Iterator[ProjectServer]:
    """Run a ProjectServer; its projects may be changed at any time."""
    own = ProjectServer()
    with serving_json(own.answer) as own.url:
        yield own
