"""Find the tasks that a model version has predicted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from backend.labelstudio.client import LabelStudio
from backend.labelstudio.task_listing import task_filter
from backend.labelstudio.task_pages import TaskPages

VERSIONS_COLUMN = "predictions_model_versions"
# Label Studio cuts the column off after this many characters. They include quotes, which it then
# removes.
CUT_AFTER = 500


def find_predicted(
    server: LabelStudio, pages: TaskPages, version: str, task_ids: Collection[int]
) -> set[int]:
    """Return which of these tasks have a prediction of this version.

    Costs one request for every 500 tasks, and another for each task whose list of versions is cut
    off.
    """
    # Unlike the column, the filter sees all predictions, but r0001 also matches r0001h12. Without
    # the filter, every task with many predictions would cost a request after each new head.
    like_it = task_filter(VERSIONS_COLUMN, "contains", "List", [version])
    return {
        task["id"]
        for task in pages.read(f"id,{VERSIONS_COLUMN}", [like_it], task_ids)
        if version in _read_versions(server, task)
    }


def _read_versions(server: LabelStudio, task: Mapping[str, Any]) -> frozenset[str]:
    """Return the model versions of the predictions of a task requested with VERSIONS_COLUMN.

    If Label Studio has cut the list off, the task's predictions are read instead.
    """
    text = str(task[VERSIONS_COLUMN] or "")
    names = [name for part in text.split(",") if (name := part.strip())]
    if len(text) + 2 * len(names) < CUT_AFTER - 1:  # one quote may be left of a pair
        return frozenset(names)
    predictions = server.request("GET", "api/predictions/", params={"task": task["id"]})
    return frozenset(filter(None, (row["model_version"] for row in predictions)))
