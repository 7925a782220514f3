"""The backend as the published dashboard sees it: metrics, and what the buttons ask for."""

from __future__ import annotations

import httpx

from backend.base.errors import BackendError, NoModelError, TightloopError
from backend.base.settings import Settings

CONTROL_HEADER = "X-Tightloop-Control"
TIMEOUT_S = 10.0
CONTROL_TIMEOUT_S = 30.0  # Redis may take its own ten seconds

Login = tuple[str, str]  # user and password


class BackendClient:
    """Asks the backend at BACKEND_URL; BackendError where it cannot be reached."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.backend_url
        self._login = settings.dashboard_user, settings.dashboard_password.get_secret_value()
        self._secret = settings.control_secret.get_secret_value()

    def metrics(self) -> bytes:
        """Return what the backend counts: webhooks and predictions reach that process alone."""
        answer = self._ask("GET", "/metrics", self._login, TIMEOUT_S)
        if not answer.is_success:
            raise BackendError(
                f"the backend at {self._url} does not give its metrics "
                f"(HTTP {answer.status_code}): see that it has the same DASHBOARD_PASSWORD"
            )
        return answer.content

    def promote(self, project_id: int, version: str, person: Login) -> None:
        """Have a version put in service, in the name of the person who pressed the button."""
        self._press("promote", {"project": str(project_id), "version": version}, person)

    def train_now(self, project_id: int, person: Login) -> None:
        """Have a training started, in the name of the person who pressed the button."""
        self._press("train", {"project": str(project_id)}, person)

    def _press(self, button: str, form: dict[str, str], person: Login) -> None:
        answer = self._ask(
            "POST",
            f"/controls/{button}",
            person,
            CONTROL_TIMEOUT_S,
            data=form,
            headers={CONTROL_HEADER: self._secret},
        )
        if not answer.is_success:
            raise self._refusal(answer)

    def _ask(
        self,
        method: str,
        path: str,
        login: Login,
        timeout_s: float,
        *,
        data: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            return httpx.request(
                method,
                f"{self._url}{path}",
                # As bytes: httpx would refuse a password that is not ASCII.
                auth=(login[0].encode(), login[1].encode()),
                data=data,
                headers=headers,
                timeout=timeout_s,
                trust_env=False,  # a proxy is for other addresses than our own
            )
        except httpx.HTTPError as error:
            raise BackendError(
                f"the backend at {self._url} does not answer ({type(error).__name__}): see that it "
                "runs and has the same DASHBOARD_PASSWORD and CONTROL_SECRET"
            ) from None

    def _refusal(self, answer: httpx.Response) -> TightloopError:
        """Turn the backend's answer into the error that it met itself."""
        if answer.status_code == 401:
            return BackendError(
                f"the backend at {self._url} refuses the dashboard's own secrets: see that both "
                "have the same CONTROL_SECRET, DASHBOARD_USER and DASHBOARD_PASSWORD"
            )
        try:
            said = str(answer.json()["error"])
        except (ValueError, KeyError, TypeError):
            said = f"the backend answered HTTP {answer.status_code} without a reason: see its log"
        if answer.status_code == 400:
            return TightloopError(said)
        return NoModelError(said) if answer.status_code == 404 else BackendError(said)
