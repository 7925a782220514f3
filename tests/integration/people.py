"""Annotators at Label Studio's API: they sign up, label, and press its buttons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import httpx

from backend.base.labeling import LabelConfig
from backend.images.pool import Pool, open_pool
from backend.labelstudio.rows import prediction_result
from backend.store.project_record import project_root, read_record
from tests.integration.conftest import Stack
from tests.patience import PATIENCE_S, wait_for


def pool_of(stack: Stack) -> Pool:
    """The pool of a stack's project."""
    settings = stack.settings
    record = read_record(project_root(settings.model_dir, stack.info["project_id"]))
    assert record is not None
    return open_pool(record.pool, settings.data_dir, seed=record.seed)


class Place(Protocol):
    """Where a person labels."""

    @property
    def info(self) -> Mapping[str, Any]:
        """label_studio_url, api_key, project_id and backend_url."""


PASSWORD = "a-long-password"


def invite_link(url: str, api_key: str) -> str:
    """What the team lead sends around."""
    headers = {"Authorization": f"Token {api_key}"}
    answer = httpx.get(f"{url}/api/invite", headers=headers, timeout=PATIENCE_S).raise_for_status()
    return str(answer.json()["invite_url"])


def sign_up(url: str, path: str, email: str) -> httpx.Response:
    """Fill the sign-up form in; 302 means that it was taken."""
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as browser:
        browser.get(path)
        return _send_form(browser, path, email)


def log_in(url: str, email: str) -> tuple[int, str]:
    """The id and the access token of somebody who signed up."""
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as browser:
        browser.get("/user/login/")
        _send_form(browser, "/user/login/", email)
        token = browser.get("/api/current-user/token").raise_for_status().json()["token"]
        who = browser.get("/api/current-user/whoami").raise_for_status().json()
        return int(who["id"]), str(token)


def _send_form(browser: httpx.Client, path: str, email: str) -> httpx.Response:
    form = {
        "csrfmiddlewaretoken": browser.cookies.get("csrftoken", ""),
        "email": email,
        "password": PASSWORD,
    }
    return browser.post(path, data=form)


class Person:
    """The admin, or anybody else with a token, labeling one project."""

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
        """The JSON of a GET."""
        return self.http.get(path, params=params).raise_for_status().json()

    def next_task(self) -> dict[str, Any]:
        """The task that Label Studio serves next; it is locked for this person from now on."""
        task: dict[str, Any] = self.get(f"/api/projects/{self.project_id}/next")
        return task

    def submit(
        self, task_id: int, label: str, config: LabelConfig, parent_prediction: int | None = None
    ) -> int:
        """Submit an annotation; its id comes back."""
        body = {"result": prediction_result(config, label), "parent_prediction": parent_prediction}
        answer = self.http.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()
        return int(answer.json()["id"])

    def start_training(self) -> None:
        """Press the ML backend's button "Start Training"."""
        [backend] = self.get("/api/ml", project=self.project_id)
        self.http.post(f"/api/ml/{backend['id']}/train").raise_for_status()

    def status(self) -> dict[str, Any]:
        """What GET /status says about the project."""
        projects = self._backend.get("/status").raise_for_status().json()["projects"]
        status: dict[str, Any] = next(p for p in projects if p["project_id"] == self.project_id)
        return status

    def training(self) -> dict[str, Any] | None:
        """The training that waits or runs."""
        return next((j for j in self.status()["jobs"] if j["job"] == "retrain"), None)

    def wait_for_rest(self, round_: int) -> dict[str, Any]:
        """Wait until a round is done, no job is left and no training is due; the status comes."""

        def rested() -> dict[str, Any] | None:
            status = self.status()
            is_done = status["round"] >= round_ and not status["jobs"]
            is_due = status["new_annotations"] >= status["retrain_after"]
            return status if is_done and not is_due else None

        return wait_for(rested, f"round {round_} done and no job left")
