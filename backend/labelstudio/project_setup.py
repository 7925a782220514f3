"""Set up a project in Label Studio: its settings, texts and tabs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from backend.labelstudio.client import UNCERTAINTY_SAMPLING
from backend.labelstudio.project_connection import ProjectConnection
from backend.labelstudio.task_listing import UNFINISHED

FIRST_TAB = "Default"  # Label Studio's title for the tab that it creates if none exists
ORDER_TAB = "Least confident first (to look at)"
HINT_COLUMN = "tasks:data.hint"
ORDER_TAB_COLUMNS = frozenset(
    {
        "tasks:data.image",
        "tasks:data.asked_by",
        "tasks:data.asked_round",
        HINT_COLUMN,  # the predictions column would show the predictions of every version
        "tasks:predictions_score",
        "tasks:total_annotations",
        "tasks:annotators",
    }
)
# Columns to hide. Label Studio lists these columns only once a model has queried an image.
LATER_COLUMNS = frozenset(
    f"tasks:data.asked_{name}" for name in ("probs", "confidence", "margin", "entropy")
)


class ProjectSetup(ProjectConnection):
    """The steps that set up a project.

    Each step may be repeated, and returns whether it changed anything.
    """

    def configure(self, *, is_blind: bool) -> bool:
        """Show the least confident images first, and the model's guess unless labeling is blind."""
        now = self._read()
        wanted = {"sampling": UNCERTAINTY_SAMPLING, "show_collab_predictions": not is_blind}
        changes = {key: value for key, value in wanted.items() if now[key] != value}
        if not changes:
            return False
        self._change(**changes)
        if self._read()["model_version"] != now["model_version"]:
            # When predictions were hidden, Label Studio cleared the version, so restore it.
            self._change(model_version=now["model_version"])
        return True

    def change_label_config(self, xml: str) -> bool:
        """Replace the label config. Raises LabelStudioError if existing annotations do not fit."""
        if self.label_config_xml().strip() == xml.strip():
            return False
        self._change(label_config=xml)
        self._label_config = None
        return True

    def instruct(self, html: str, earlier: Collection[str]) -> bool:
        """Set the annotators' instructions; replace existing ones only if they are in `earlier`."""
        now = str(self._read()["expert_instruction"] or "")
        if now == html or (now and now not in earlier):
            return False
        self._change(expert_instruction=html)
        return True

    def add_order_tab(self) -> bool:
        """Add a Data Manager tab that lists the next images in order, unless it already exists."""
        params = {"project": self.project_id}
        tabs = self._server.request("GET", "api/dm/views/", params=params)
        if any((tab["data"] or {}).get("title") == ORDER_TAB for tab in tabs):
            return False
        found = self._server.request("GET", "api/dm/columns/", params=params)["columns"]
        columns = {_column_id(c): c["visibility_defaults"] for c in found if not c.get("children")}
        hidden = {
            place: [column for column, is_shown in columns.items() if not is_shown[place]]
            for place in ("explore", "labeling")
        }
        if not tabs:  # Label Studio opens the first tab, so keep its default tab first
            self._add_tab(FIRST_TAB, hiddenColumns=hidden)
        unused = sorted((LATER_COLUMNS | {*columns}) - ORDER_TAB_COLUMNS)
        self._add_tab(
            ORDER_TAB,
            ordering=["tasks:predictions_score"],
            filters={"conjunction": "and", "items": [UNFINISHED]},
            hiddenColumns={**hidden, "explore": unused},
            columnsWidth={HINT_COLUMN: 320},
        )
        return True

    def _add_tab(self, title: str, **data: Any) -> None:
        self._create("api/dm/views/", {"data": {"title": title, **data}})


def _column_id(column: Mapping[str, Any]) -> str:
    parent = f"{column['parent']}." if column.get("parent") else ""
    return f"{column['target']}:{parent}{column['id']}"
