"""Ask Label Studio for columns without the averages that may overflow."""

from __future__ import annotations

import json
from typing import Any

from backend.labelstudio.task_listing import ANNOTATED, Listing


def query(listing: Listing) -> dict[str, Any]:
    return dict(json.loads(listing.params()["query"]))


def test_annotations_are_listed_without_computed_columns() -> None:
    listing = Listing(("id", "annotations", "lead_time"))
    params = listing.params()
    assert (params["include"], params["fields"], params["review"]) == (
        "id,annotations,lead_time",
        "all",
        "true",
    )
    assert listing.untimed().params()["include"] == "id,annotations"


def test_versions_are_listed_without_averages() -> None:
    listing = Listing(("id", "predictions_model_versions"))
    hidden = query(listing)["hiddenColumns"]
    assert hidden["explore"] == hidden["labeling"]
    assert {"tasks:avg_lead_time", "tasks:predictions_score"} < {*hidden["explore"]}
    assert "tasks:predictions_model_versions" not in hidden["explore"]
    assert "fields" not in listing.params()


def test_columns_that_label_studio_stores_need_no_other_parameters() -> None:
    listing = Listing(("id", "data"))
    assert listing.params().keys() == {"include", "query"}
    assert query(listing).keys() == {"filters", "ordering"}


def test_a_part_of_a_listing_keeps_its_filters_and_its_tasks() -> None:
    part = Listing(("id",), (ANNOTATED,), included=[9, 5]).after(4, 8)
    assert query(part)["selectedItems"] == {"all": False, "included": [5, 9]}
    assert [(f["operator"], f["value"]) for f in query(part)["filters"]["items"]] == [
        ("greater", 4),
        ("less_or_equal", 8),
        ("greater", 0),
    ]
    without = Listing(("id",), excluded=[3])
    assert query(without)["selectedItems"] == {"all": True, "excluded": [3]}
