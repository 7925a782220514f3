"""Simulate an annotator who joined by the invite link and uses only the published port."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx

from backend.base.labeling import LabelConfig
from backend.labelstudio.label_config import parse_label_config
from scripts.research.accounts import log_in
from tests.compose.conftest import Team
from tests.integration.people import Person
from tests.patience import PATIENCE_S


class Annotator(Person):
    """An annotator with an account; `accepted` maps each task to its accepted annotation's id."""

    def __init__(self, team: Team, email: str, truth: dict[str, str]) -> None:
        self.team = team
        self.truth = truth
        self.accepted: dict[int, int] = {}
        self.user_id, token = log_in(team.url, email)
        super().__init__(SimpleNamespace(info={**team.info, "api_key": token}))
        project = self.get(f"/api/projects/{self.project_id}")
        self.config: LabelConfig = parse_label_config(project["label_config"])

    def status(self) -> dict[str, Any]:
        """Get the status inside the stack: the backend cannot be reached from outside."""
        return self.team.status(self.project_id)

    def label(self, count: int) -> None:
        """Label a number of tasks; wait while none is open or Label Studio is down."""
        until = len(self.accepted) + count
        self.label_until(lambda: len(self.accepted) == until)

    def label_until(self, is_enough: Callable[[], bool]) -> None:
        """Label until `is_enough` returns true."""
        give_up = time.monotonic() + PATIENCE_S
        while not is_enough():
            assert time.monotonic() < give_up, "no task was open for a long time"
            try:
                task = self.next_task()
            except httpx.HTTPError:  # no task is open, or the server restarts
                time.sleep(0.5)
                continue
            self.accepted[task["id"]] = self._submit_once(task, give_up)
            give_up = time.monotonic() + PATIENCE_S

    def _submit_once(self, task: dict[str, Any], give_up: float) -> int:
        """Submit an annotation; after an interruption, first check whether it was saved."""
        label = self.truth[task["data"]["image_id"]]
        while True:
            try:
                return self.submit(task["id"], label, self.config)
            except httpx.HTTPStatusError as error:
                if error.response.status_code < 500:
                    raise
            except httpx.TransportError:
                pass
            while True:
                assert time.monotonic() < give_up, "Label Studio never came back"
                time.sleep(0.5)
                try:
                    kept = self.get(f"/api/tasks/{task['id']}/annotations/")
                    break
                except httpx.HTTPError:
                    continue
            own = [a["id"] for a in kept if a["completed_by"] == self.user_id]
            if own:
                return int(own[0])
