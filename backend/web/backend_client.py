"""Reach the backend from a published dashboard, which runs in another process."""

from __future__ import annotations

from typing import Any

import httpx
from flask import request

from backend.base.errors import BackendError, NoModelError, TightloopError
from backend.base.settings import Settings

CONTROL_HEADER = "X-Tightloop-Control"
TIMEOUT_S = 10.0
CONTROL_TIMEOUT_S = 30.0  # Redis alone may take ten seconds


class BackendClient:
    """Gets metrics from the backend at BACKEND_URL, and forwards button presses to it.

    Every method raises BackendError if the backend cannot be reached or refuses the credentials.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.backend_url
        # Encode first, because httpx refuses a password that is not ASCII.
        password = settings.dashboard_password.get_secret_value()
        self._login = settings.dashboard_user.encode(), password.encode()
        self._secret = settings.control_secret.get_secret_value()

    def metrics(self) -> bytes:
        """Return the backend's metrics; only the backend can count webhooks and predictions."""
        return self._request("GET", "/metrics", auth=self._login, timeout=TIMEOUT_S).content

    def promote(self, project_id: int, version: str) -> None:
        """Put a version in service on behalf of the person who pressed the button."""
        self._press("promote", {"project": str(project_id), "version": version})

    def train_now(self, project_id: int) -> None:
        """Start training on behalf of the person who pressed the button."""
        self._press("train", {"project": str(project_id)})

    def rescan_now(self, project_id: int) -> None:
        """Start a search for new images on behalf of the person who pressed the button."""
        self._press("rescan", {"project": str(project_id)})

    def export_now(self, project_id: int) -> None:
        """Request a file with all labels on behalf of the person who pressed the button."""
        self._press("export", {"project": str(project_id)})

    def finish_now(self, project_id: int, max_error: float) -> None:
        """Request labels by the model on behalf of the person who pressed the button."""
        self._press("finish", {"project": str(project_id), "max_error": str(max_error)})

    def _press(self, button: str, form: dict[str, str]) -> None:
        # Forward the person's login, which the backend also checks.
        headers = {"Authorization": str(request.authorization), CONTROL_HEADER: self._secret}
        self._request(
            "POST", f"/controls/{button}", data=form, headers=headers, timeout=CONTROL_TIMEOUT_S
        )

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            # Without trust_env=False, httpx would use a proxy from the environment.
            response = httpx.request(method, f"{self._url}{path}", trust_env=False, **options)
        except httpx.HTTPError as error:
            raise BackendError(
                f"the backend at {self._url} does not respond ({type(error).__name__}): check that "
                "it is running and has the same DASHBOARD_PASSWORD and CONTROL_SECRET"
            ) from None
        if not response.is_success:
            raise self._error(response)
        return response

    def _error(self, response: httpx.Response) -> TightloopError:
        """Convert the backend's response into the error that it reports."""
        if response.status_code == 401:
            return BackendError(
                f"the backend at {self._url} refuses the dashboard's own secrets: check that both "
                "have the same CONTROL_SECRET, DASHBOARD_USER and DASHBOARD_PASSWORD"
            )
        try:
            message = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            message = (
                f"the backend answered HTTP {response.status_code} without a reason: see its log"
            )
        kinds = {400: TightloopError, 404: NoModelError}
        return kinds.get(response.status_code, BackendError)(message)
