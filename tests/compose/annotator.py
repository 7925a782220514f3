"""An annotator who joined by the invite link and labels over the published port alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx

from backend.base.labeling import LabelConfig
from backend.labelstudio.label_config import parse_label_config
from tests.compose.conftest import Team
from tests.integration.people import Person, log_in
from tests.patience import PATIENCE_S


class Annotator(Person):
    """Somebody with an account of their own; `answers` are the annotations that were accepted."""

    def __init__(self, team: Team, email: str, truth: dict[str, str]) -> None:
        self.team = team
        self.truth = truth
        self.answers: dict[int, int] = {}  # task -> annotation
        self.user_id, token = log_in(team.url, email)
        super().__init__(SimpleNamespace(info={**team.info, "api_key": token}))
        project = self.get(f"/api/projects/{self.project_id}")
        self.config: LabelConfig = parse_label_config(project["label_config"])

    def status(self) -> dict[str, Any]:
        """The backend cannot be reached from outside: asked inside."""
        return self.team.status(self.project_id)

    def label(self, count: int) -> None:
        """Answer so many tasks; waits while none is open or Label Studio is away."""
        until = len(self.answers) + count
        self.label_until(lambda: len(self.answers) == until)

    def label_until(self, is_enough: Callable[[], bool]) -> None:
        """Go on answering until it is enough."""
        give_up = time.monotonic() + PATIENCE_S
        while not is_enough():
            assert time.monotonic() < give_up, "no task was open for a long time"
            try:
                task = self.next_task()
            except httpx.HTTPError:  # no task is open, or the server restarts
                time.sleep(0.5)
                continue
            self.answers[task["id"]] = self._submit_once(task, give_up)
            give_up = time.monotonic() + PATIENCE_S

    def _submit_once(self, task: dict[str, Any], give_up: float) -> int:
        """Submit; after an interruption look first whether it was kept, as a person would."""
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
