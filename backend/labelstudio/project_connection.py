"""Connect a project's webhook and ML backend to Tightloop, and detect later changes to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.base.errors import LabelStudioError
from backend.base.settings import Settings
from backend.labelstudio.incoming import CHANGED_LISTS, SECRET_HEADER
from backend.labelstudio.project import LabelStudioProject

BACKEND_TITLE = "Tightloop"


@dataclass(frozen=True)
class Address:
    """The address of our backend, and the secrets that Label Studio sends to it."""

    url: str
    user: str
    password: str
    secret: str


def address_of(settings: Settings) -> Address:
    """Return the address of our backend, with its secrets."""
    return Address(
        url=settings.backend_url,
        user=settings.backend_user,
        password=settings.backend_password.get_secret_value(),
        secret=settings.webhook_secret.get_secret_value(),
    )


class ProjectConnection(LabelStudioProject):
    """A project's webhook and its connection to our ML backend.

    The methods that connect may be called repeatedly. They return whether anything changed.
    """

    def connect(self, address: Address) -> bool:
        """Connect the webhook and the ML backend; return whether anything changed."""
        has_new_webhook = self.connect_webhook(f"{address.url}/webhook", address.secret)
        return self.connect_backend(address.url, address.user, address.password) or has_new_webhook

    def connect_webhook(self, url: str, secret: str) -> bool:
        """Create one webhook that sends changes and our secret to `url`; delete our other webhooks.

        Call this before `connect_backend`, so that Label Studio does not add its default webhook.
        """
        return self._keep_one(
            "api/webhooks/",
            "api/webhooks/{id}/",
            is_ours=lambda hook: _is_our_webhook(hook, url),
            is_sound=lambda hook: not _webhook_fault(hook, url, secret),
            create=lambda: self._create("api/webhooks/", _webhook(url, secret)),
        )

    def connect_backend(self, url: str, user: str, password: str) -> bool:
        """Connect the ML backend at `url`, which must be running; delete our other connections."""
        has_changed = self._keep_one(
            "api/ml/",
            "api/ml/{id}",
            is_ours=lambda row: is_our_backend(row, url),
            # Label Studio calls /setup before it lists a backend, so "connected" means that the
            # backend accepted the password.
            is_sound=lambda row: row["state"] == "CO" and not _backend_fault(row, url, user),
            create=lambda: self._create_backend(url, user, password),
        )
        if has_changed and self.model_version() == BACKEND_TITLE:
            # Clear the version that Label Studio set; otherwise, each task that is opened would
            # wait for /predict.
            self._change(model_version="")
        return has_changed

    def webhook_fault(self, url: str, secret: str) -> str:
        """Return what is wrong with our webhook, for example "was deleted", or "" if nothing is."""
        ours = [hook for hook in self._list("api/webhooks/") if _is_our_webhook(hook, url)]
        return _fault_of_one(ours, lambda hook: _webhook_fault(hook, url, secret))

    def backend_fault(self, url: str, user: str) -> str:
        """Return what is wrong with the connection to our ML backend, or "".

        A connection has no fault if only its backend is down.
        """
        ours = [row for row in self._list("api/ml/") if is_our_backend(row, url)]
        return _fault_of_one(ours, lambda row: _backend_fault(row, url, user))

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


def is_our_backend(row: Mapping[str, Any], url: str) -> bool:
    """Return whether a connected ML backend is ours, even if our address was different then."""
    return row["url"] == url or row["title"] == BACKEND_TITLE


def _webhook(url: str, secret: str) -> dict[str, Any]:
    """Return our webhook as Label Studio stores it."""
    return {
        "url": url,
        "headers": {SECRET_HEADER: secret},
        "actions": sorted(CHANGED_LISTS),
        "send_for_all_actions": False,
        "send_payload": True,
        "is_active": True,
    }


def _is_our_webhook(hook: Mapping[str, Any], url: str) -> bool:
    return hook["url"] == url or SECRET_HEADER in (hook["headers"] or {})


def _webhook_fault(hook: Mapping[str, Any], url: str, secret: str) -> str:
    wanted = _webhook(url, secret)
    found = {**{key: hook[key] for key in wanted}, "actions": sorted(hook["actions"] or ())}
    if found == wanted:
        return ""
    if not hook["is_active"]:
        return "was switched off"
    if hook["url"] != url:
        return "was given another address"
    if hook["headers"] != wanted["headers"]:
        return "no longer sends the secret"
    return "no longer reports exactly the changes that Tightloop needs"


def _backend_fault(row: Mapping[str, Any], url: str, user: str) -> str:
    if row["url"] != url:
        return "was given another address"
    if row["basic_auth_user"] != user:
        return "was given another user name"
    # Any other error means that the backend is down or is just starting.
    is_refused = row["state"] == "ER" and "401" in (row["error_message"] or "")
    return "was given another password" if is_refused else ""


def _fault_of_one(
    ours: Sequence[Mapping[str, Any]], fault_of: Callable[[Mapping[str, Any]], str]
) -> str:
    """Return what is wrong with our rows, of which there must be exactly one."""
    if not ours:
        return "was deleted"
    faults = [*map(fault_of, ours)]
    return "exists more than once" if len(ours) > 1 and "" in faults else faults[0]
