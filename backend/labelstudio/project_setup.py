"""Set up a project in Label Studio: its settings, tabs, webhook and ML backend."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from backend.base.errors import LabelStudioError
from backend.labelstudio.client import UNCERTAINTY_SAMPLING
from backend.labelstudio.incoming import CHANGED_LISTS, SECRET_HEADER
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.task_listing import UNFINISHED

BACKEND_TITLE = "Tightloop"
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


class ProjectSetup(LabelStudioProject):
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

    def connect_webhook(self, url: str, secret: str) -> bool:
        """Create one webhook that sends changes and our secret to `url`; delete our other webhooks.

        Call this before `connect_backend`, so that Label Studio does not add its default webhook.
        """
        wanted = {
            "url": url,
            "headers": {SECRET_HEADER: secret},
            "actions": sorted(CHANGED_LISTS),
            "send_for_all_actions": False,
            "send_payload": True,
            "is_active": True,
        }
        return self._keep_one(
            "api/webhooks/",
            "api/webhooks/{id}/",
            is_ours=lambda hook: hook["url"] == url or SECRET_HEADER in (hook["headers"] or {}),
            is_sound=lambda hook: (
                wanted
                == {**{key: hook[key] for key in wanted}, "actions": sorted(hook["actions"] or ())}
            ),
            create=lambda: self._create("api/webhooks/", wanted),
        )

    def connect_backend(self, url: str, user: str, password: str) -> bool:
        """Connect the ML backend at `url`, which must be running; delete our other connections."""
        has_changed = self._keep_one(
            "api/ml/",
            "api/ml/{id}",
            is_ours=lambda row: is_our_backend(row, url),
            # Label Studio calls /setup before it lists a backend, so "connected" means that the
            # backend accepted the password.
            is_sound=lambda row: (
                (row["url"], row["basic_auth_user"], row["state"]) == (url, user, "CO")
            ),
            create=lambda: self._create_backend(url, user, password),
        )
        if has_changed and self.model_version() == BACKEND_TITLE:
            # Clear the version that Label Studio set; otherwise, each task that is opened would
            # wait for /predict.
            self._change(model_version="")
        return has_changed

    def _create_backend(self, url: str, user: str, password: str) -> None:
        before = {row["id"] for row in self._list("api/ml/")}
        fields = {
            "url": url,
            "title": BACKEND_TITLE,
            "auth_method": "BASIC_AUTH",
            "basic_auth_user": user,
            "basic_auth_pass": password,
        }
        try:
            self._create("api/ml/", fields)
        except LabelStudioError as error:
            for row in self._list("api/ml/"):  # Label Studio may keep a rejected backend
                if row["id"] not in before:
                    self._server.request("DELETE", f"api/ml/{row['id']}")
            raise LabelStudioError(
                f"Label Studio cannot connect to the ML backend at {url}: check that it is "
                f"running, and that Label Studio can reach BACKEND_URL. {error}"
            ) from None

    def _keep_one(
        self,
        path: str,
        row_path: str,
        *,
        is_ours: Callable[[Mapping[str, Any]], bool],
        is_sound: Callable[[Mapping[str, Any]], bool],
        create: Callable[[], None],
    ) -> bool:
        """Keep or create one valid row; delete our other rows. Return whether anything changed."""
        ours = [row for row in self._list(path) if is_ours(row)]
        kept = [row for row in ours if is_sound(row)][:1]
        if len(ours) == len(kept) == 1:
            return False
        if not kept:
            create()
        for row in ours:
            if row not in kept:
                self._server.request("DELETE", row_path.format_map(row))
        return True

    def _list(self, path: str) -> list[Mapping[str, Any]]:
        return list(self._server.request("GET", path, params={"project": self.project_id}))

    def _create(self, path: str, fields: Mapping[str, Any]) -> None:
        self._server.request("POST", path, json={"project": self.project_id, **fields})

    def _add_tab(self, title: str, **data: Any) -> None:
        self._create("api/dm/views/", {"data": {"title": title, **data}})


def is_our_backend(row: Mapping[str, Any], url: str) -> bool:
    """Return whether a connected ML backend is ours, even if our address was different then."""
    return row["url"] == url or row["title"] == BACKEND_TITLE


def _column_id(column: Mapping[str, Any]) -> str:
    parent = f"{column['parent']}." if column.get("parent") else ""
    return f"{column['target']}:{parent}{column['id']}"
