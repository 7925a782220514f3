"""Describe which columns of which tasks the Data Manager lists."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

Filter = Mapping[str, Any]

ANNOTATIONS, LEAD_TIME = "annotations", "lead_time"
# Columns that Label Studio computes for each page: all of them with `fields=all`, otherwise only
# those that are not hidden. The averages among them overflow if a program has sent an absurd lead
# time or prediction score, and Label Studio then answers 500.
COMPUTED = (
    "annotations_ids",
    "annotations_results",
    "annotators",
    "avg_lead_time",
    "completed_at",
    "draft_exists",
    "file_upload",
    "predictions_model_versions",
    "predictions_results",
    "predictions_score",
    "storage_filename",
)


def task_filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    """Return a filter for the Data Manager."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


UNANNOTATED = [
    task_filter(column, "equal", "Number", 0)
    for column in ("total_annotations", "cancelled_annotations")
]
ANNOTATED = task_filter("total_annotations", "greater", "Number", 0)
UNFINISHED = task_filter("completed_at", "empty", "Datetime", True)


@dataclass(frozen=True)
class Listing:
    """A choice of tasks and of their columns."""

    columns: tuple[str, ...]
    filters: tuple[Filter, ...] = ()
    included: Collection[int] | None = None  # None = all tasks that are not excluded
    excluded: Collection[int] = ()

    @property
    def is_timed(self) -> bool:
        """Return whether the lead times of annotations are listed."""
        return LEAD_TIME in self.columns

    def untimed(self) -> Listing:
        """Return the same listing without lead times."""
        return replace(self, columns=tuple(name for name in self.columns if name != LEAD_TIME))

    def after(self, last_id: int, up_to: int | None = None) -> Listing:
        """Return the part of the listing with ids greater than `last_id`, and at most `up_to`."""
        bounds = [task_filter("id", "greater", "Number", last_id)]
        if up_to is not None:
            bounds.append(task_filter("id", "less_or_equal", "Number", up_to))
        return replace(self, filters=(*bounds, *self.filters))

    def params(self) -> dict[str, Any]:
        """Return the parameters of the request."""
        query: dict[str, Any] = {
            "filters": {"conjunction": "and", "items": self.filters},
            "ordering": ["tasks:id"],
        }
        if self.included is not None:
            query["selectedItems"] = {"all": False, "included": sorted(self.included)}
        elif self.excluded:
            query["selectedItems"] = {"all": True, "excluded": sorted(self.excluded)}
        params = {"include": ",".join(self.columns)}
        if ANNOTATIONS in self.columns:
            # `fields=all` lists annotations. With `review`, Label Studio does not compute COMPUTED.
            params |= {"fields": "all", "review": "true"}
        elif not {*COMPUTED}.isdisjoint(self.columns):
            hidden = [f"tasks:{name}" for name in COMPUTED if name not in self.columns]
            query["hiddenColumns"] = {"explore": hidden, "labeling": hidden}
        return params | {"query": json.dumps(query)}
