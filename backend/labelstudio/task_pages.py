"""Read a project's tasks through the Data Manager, page by page."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from backend.base.errors import LabelStudioError
from backend.labelstudio.client import LabelStudio

T = TypeVar("T")
Filter = Mapping[str, Any]

CHUNK = 500  # tasks or predictions in one request
# Label Studio 1.23 answers 500 if a task is deleted while it reads the task's page: it looks up the
# page's ids first, and expects to find all of these tasks afterwards.
TRIES = 3


def task_filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    """Return a filter for the Data Manager."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


UNANNOTATED = [
    task_filter(column, "equal", "Number", 0)
    for column in ("total_annotations", "cancelled_annotations")
]
ANNOTATED = task_filter("total_annotations", "greater", "Number", 0)
UNFINISHED = task_filter("completed_at", "empty", "Datetime", True)


class TaskPages:
    """The tasks of one project, as Label Studio's JSON.

    Methods raise LabelStudioError.
    """

    def __init__(self, server: LabelStudio, project_id: int) -> None:
        self._server = server
        self._project_id = project_id

    def count(self, filters: Sequence[Filter] = ()) -> int:
        """Count the tasks that pass all filters with one cheap request."""
        return int(self._page(filters, include="id", page_size=1)["total"])

    def read(
        self, include: str, filters: Sequence[Filter] = (), among: Collection[int] | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the columns `include` of the tasks that pass all filters, in order of id.

        With `among`, only these tasks are read, in one request for every CHUNK tasks.
        """
        if among is None:
            yield from self._read(include, filters)
            return
        for task_ids in chunks(sorted(among)):
            yield from self._read(include, filters, {"all": False, "included": task_ids})

    def _read(
        self, include: str, filters: Sequence[Filter], selected: Mapping[str, Any] | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """Yield tasks page by page.

        Each page begins after the last id of the previous page, so deletions do not shift it.
        """
        last_id = 0
        while True:
            later = task_filter("id", "greater", "Number", last_id)
            body = self._page(
                [later, *filters], selected, include=include, fields="all", page_size=CHUNK
            )
            page = body["tasks"]
            yield from page
            if len(page) >= body["total"] or not page:
                return
            last_id = page[-1]["id"]

    def _page(
        self,
        filters: Sequence[Filter],
        selected: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Mapping[str, Any]:
        query: dict[str, Any] = {
            "filters": {"conjunction": "and", "items": filters},
            "ordering": ["tasks:id"],
        }
        if selected is not None:
            query["selectedItems"] = selected
        params |= {"project": self._project_id, "query": json.dumps(query)}
        tries = 1
        while True:
            try:
                return self._server.request("GET", "api/tasks/", params=params)
            except LabelStudioError as error:
                if error.status != 500 or tries == TRIES:
                    raise
                tries += 1


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield parts of at most CHUNK items."""
    return (items[i : i + CHUNK] for i in range(0, len(items), CHUNK))
