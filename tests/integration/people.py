"""Annotators who use Label Studio's API: they sign up, label and press its buttons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

import httpx

from backend.base.labeling import LabelConfig
from backend.images.pool import Pool, open_pool
from backend.labelstudio.rows import prediction_result
from backend.store.project_record import project_root, read_record
from tests.patience import PATIENCE_S, wait_for

if TYPE_CHECKING:  # conftest.py imports this file
    from tests.integration.conftest import Stack


def pool_of(stack: Stack) -> Pool:
    """Open the pool of a stack's project."""
    settings = stack.settings
    record = read_record(project_root(settings.model_dir, stack.info["project_id"]))
    assert record is not None
    return open_pool(record.pool, settings.data_dir, seed=record.seed)


class Place(Protocol):
    """A stack in which a person labels."""

    @property
    def info(self) -> Mapping[str, Any]:
        """label_studio_url, api_key, project_id and backend_url."""


class Person:
    """A person with a token, such as the admin, who labels one project."""

    def __init__(self, place: Place) -> None:
        info = place.info
        self.project_id: int = info["project_id"]
        self.http = httpx.Client(
            base_url=info["label_studio_url"],
            headers={"Authorization": f"Token {info['api_key']}"},
            timeout=PATIENCE_S,
        )
        self._backend = httpx.Client(base_url=info["backend_url"], timeout=PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self._backend.close()

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of a GET request."""
        return self.http.get(path, params=params).raise_for_status().json()

    def next_task(self) -> dict[str, Any]:
        """Return the task that Label Studio serves next, and lock it for this person."""
        task: dict[str, Any] = self.get(f"/api/projects/{self.project_id}/next")
        return task

    def submit(
        self, task_id: int, label: str, config: LabelConfig, parent_prediction: int | None = None
    ) -> int:
        """Submit an annotation and return its id."""
        body = {"result": prediction_result(config, label), "parent_prediction": parent_prediction}
        response = self.http.post(
            f"/api/tasks/{task_id}/annotations/", json=body
        ).raise_for_status()
        return int(response.json()["id"])

    def start_training(self) -> None:
        """Press the ML backend's button "Start Training"."""
        [backend] = self.get("/api/ml", project=self.project_id)
        self.http.post(f"/api/ml/{backend['id']}/train").raise_for_status()

    def status(self) -> dict[str, Any]:
        """Return what GET /status reports on the project."""
        projects = self._backend.get("/status").raise_for_status().json()["projects"]
        status: dict[str, Any] = next(p for p in projects if p["project_id"] == self.project_id)
        return status

    def training(self) -> dict[str, Any] | None:
        """Return the queued or running training job, or None."""
        return next((j for j in self.status()["jobs"] if j["job"] == "retrain"), None)

    def wait_for_rest(self, round_: int) -> dict[str, Any]:
        """Wait until a round is done and no job is left or due; return the status."""

        def rested() -> dict[str, Any] | None:
            status = self.status()
            is_done = status["round"] >= round_ and not status["jobs"]
            is_due = status["new_annotations"] >= status["retrain_after"]
            return status if is_done and not is_due else None

        return wait_for(rested, f"round {round_} done and no job left")
