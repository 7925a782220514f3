"""A stand-in for Label Studio's list of tasks, some of which it cannot list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.unit.labelstudio.stand_in_server import serving_json


@dataclass
class DataManager:
    """Tasks 1, 2, … with one annotation each, whose id is 100 more and whose lead time is 3 s.

    Requests for an `unlistable` task, or for the lead time of an `untimed` task, are answered with
    500, and so are all requests if the database `is_down`.
    """

    task_ids: list[int]
    untimed: set[int] = field(default_factory=set)
    unlistable: set[int] = field(default_factory=set)
    is_down: bool = False
    url: str = ""
    requests: list[str] = field(default_factory=list)  # as "path" or "path, n tasks"

    def answer(self, target: str) -> tuple[int, object]:
        """Return the status and the body for a request."""
        parts = urlsplit(target)
        params = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.requests.append(parts.path)
        if self.is_down:
            return 500, {"detail": "the database is down"}
        if parts.path != "/api/tasks/":
            task_id = int(parts.path.split("/")[3]) - 100
            fails = task_id in self.untimed
            return (500, None) if fails else (200, {"id": task_id + 100, "lead_time": 3.0})
        found = [i for i in self.task_ids if _passes(i, json.loads(params["query"]))]
        page = found[: int(params["page_size"])]
        columns = params["include"].split(",")
        ill = self.unlistable | (self.untimed if "lead_time" in columns else set())
        if ill.intersection(page):
            return 500, {"detail": "value out of range: overflow"}
        return 200, {"tasks": [_row(i, columns) for i in page], "total": len(found)}


def _passes(task_id: int, query: Mapping[str, Any]) -> bool:
    selected = query.get("selectedItems", {"all": True})
    if task_id in selected.get("excluded", ()):
        return False
    if not selected["all"] and task_id not in selected["included"]:
        return False
    compare = {"greater": task_id.__gt__, "less_or_equal": task_id.__le__}
    return all(compare[item["operator"]](item["value"]) for item in query["filters"]["items"])


def _row(task_id: int, columns: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"id": task_id}
    if "annotations" in columns:
        times = {"lead_time": 3.0} if "lead_time" in columns else {}
        row["annotations"] = [{"id": task_id + 100, **times}]
    return row


@contextmanager
def serving(manager: DataManager) -> Iterator[DataManager]:
    """Serve the tasks; `manager.url` is the address."""
    with serving_json(manager.answer) as manager.url:
        yield manager
