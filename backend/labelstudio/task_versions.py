"""Find the model versions that have predictions for a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.labelstudio.client import LabelStudio

VERSIONS_COLUMN = "predictions_model_versions"
# Label Studio cuts the column off after this many characters. They include quotes, which it then
# removes.
CUT_AFTER = 500


def read_versions(server: LabelStudio, task: Mapping[str, Any]) -> frozenset[str]:
    """Return the model versions of the predictions of a task requested with VERSIONS_COLUMN.

    If Label Studio has cut the list off, the task's predictions are read instead.
    """
    text = str(task[VERSIONS_COLUMN] or "")
    names = [name for part in text.split(",") if (name := part.strip())]
    if len(text) + 2 * len(names) < CUT_AFTER - 1:  # one quote may be left of a pair
        return frozenset(names)
    predictions = server.request("GET", "api/predictions/", params={"task": task["id"]})
    return frozenset(filter(None, (row["model_version"] for row in predictions)))
