"""Let people with accounts label through Label Studio's API, as the labeling view does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from threading import Event
from typing import Any

import httpx

from backend.labelstudio.rows import prediction_result
from scripts.research.accounts import invite_link, log_in, sign_up
from scripts.research.chaos.chaos_stack import ChaosStack
from scripts.research.measurement import in_background

EMAILS = ("ada@example.org", "grace@example.org")
THINKS_S = (1.0, 2.0)
# The shares of tasks that are labeled wrongly or skipped, and of steps that edit an annotation.
WRONG, SKIPPED, EDITED = 0.1, 0.04, 0.04
TIMEOUT_S = 60.0


class Annotator:
    """A person who labels one task after another, and records what Label Studio acknowledges."""

    def __init__(
        self, stack: ChaosStack, truth: Mapping[str, str], email: str, rng: Random
    ) -> None:
        self._ledger, self._truth, self._rng = stack.ledger, truth, rng
        self._config = stack.project.label_config()
        self._project_id = stack.project_id
        info = stack.info
        url = info["label_studio_url"]
        sign_up(url, invite_link(url, info["api_key"]), email)  # refused if the account exists
        self._user_id, token = log_in(url, email)
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Token {token}"}, timeout=TIMEOUT_S
        )
        self._own: dict[int, str] = {}  # the true class of each annotated image

    def label_until(self, over: Event) -> None:
        """Label until `over` is set; carry on after errors, as people do."""
        while not over.wait(self._rng.uniform(*THINKS_S)):
            try:
                if self._own and self._rng.random() < EDITED:
                    self._edit()
                else:
                    self._annotate()
            except httpx.HTTPError:
                continue  # a person would reload the page
        self._http.close()

    def _annotate(self) -> None:
        """Open the next task, and submit or skip it."""
        task = self._get(f"/api/projects/{self._project_id}/next")
        image_id = task["data"].get("image_id", "")
        truth = self._truth.get(image_id)  # None for a task that is not Tightloop's
        label = None if self._rng.random() < SKIPPED else self._choose(truth)
        body = {
            "result": prediction_result(self._config, label) if label else [],
            "was_cancelled": label is None,
            "lead_time": self._rng.uniform(*THINKS_S),
            "started_at": datetime.now(UTC).isoformat(),
            "draft_id": 0,
            "parent_prediction": next((p["id"] for p in task["predictions"]), None),
            "parent_annotation": None,
        }
        path = f"/api/tasks/{task['id']}/annotations/"
        response = self._send("POST", path, body)
        if truth is None:
            return
        if response is None or response.status_code != 201:
            self._ledger.record_unclear(task["id"], self._user_id)
            return
        made = response.json()["id"]
        self._ledger.record_annotation(made, task["id"], image_id, self._user_id, label)
        self._own[made] = truth

    def _edit(self) -> None:
        """Change one of the last annotations."""
        annotation_id = self._rng.choice(list(self._own)[-10:])
        label = self._choose(self._own[annotation_id])
        body = {
            "result": prediction_result(self._config, label),
            "was_cancelled": False,
            "lead_time": self._rng.uniform(*THINKS_S),
        }
        response = self._send("PATCH", f"/api/annotations/{annotation_id}/", body)
        if response is not None and response.status_code == 404:  # a colleague deleted it
            del self._own[annotation_id]
            return
        is_clear = response is not None and response.is_success
        self._ledger.record_edit(annotation_id, label, is_clear=is_clear)

    def _choose(self, truth: str | None) -> str:
        if truth is not None and self._rng.random() >= WRONG:
            return truth
        return self._rng.choice(self._config.choices)

    def _get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    def _send(self, method: str, path: str, body: Mapping[str, Any]) -> httpx.Response | None:
        """Send a request; return None if no response came."""
        try:
            return self._http.request(method, path, params={"project": self._project_id}, json=body)
        except httpx.HTTPError:
            return None


@contextmanager
def people_labeling(stack: ChaosStack, truth: Mapping[str, str], seed: int) -> Iterator[None]:
    """Have everyone in EMAILS label at the same time until the block ends."""
    people = [Annotator(stack, truth, email, Random(f"{seed} {email}")) for email in EMAILS]

    def label(over: Event, number: int) -> None:
        people[number].label_until(over)

    with in_background(label, len(people)):
        yield
